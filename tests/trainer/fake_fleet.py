"""A rollout fleet of one thread: answers requests with random candidates, honestly scored by the newest checkpoint."""

from __future__ import annotations

from threading import Event, Thread

import numpy as np
import torch

from common.context import Context
from common.features import Featurizer
from common.item_index import ItemIndex
from common.messages import NO_ITEM, RolloutGroup, RolloutRequest, Sampler, decode
from common.policy import build_policy, load_weights
from common.settings import Settings
from common.stream import LogReader, Producer
from tests.trainer.tiny_run import TinyRun, grown_index
from trainer.checkpoint import committed, policy_blob


def answer(
    request: RolloutRequest, version: int, blob: bytes, settings: Settings, index: ItemIndex, legal: int = 5
) -> RolloutGroup:
    """A group of distinct random candidates, the first ``legal`` of them items, log-probs by the given parameters."""
    rng = np.random.default_rng(request.offset)
    items = rng.choice(len(index), legal, replace=False)
    other = [key for key in rng.permutation(index.codes**3) if key not in set(index.keys(index.sids).tolist())]
    keys = np.array(other[: settings.rl.group_size - legal])
    random = np.stack([keys // index.codes**2, keys // index.codes % index.codes, keys % index.codes], 1)
    codes = np.concatenate([index.sids[items], random.reshape(-1, 3)]).astype(np.int64)
    policy = build_policy(settings.policy).eval()
    load_weights(policy, blob)
    with torch.no_grad():
        memory = policy.encode(Featurizer(settings.policy, index)([Context.from_message(request.context)]))
        log_probs = policy.log_probs(memory, torch.from_numpy(codes)[None])[0]
    heads = index.head_items(codes)
    echoed = {name: getattr(request, name) for name in ("request_id", "run", "topic", "partition", "offset", "digest")}
    return RolloutGroup(
        **echoed,
        actor="fake",
        parameter_version=version,
        reward_version="1",
        tokenizer_version=request.tokenizer_version,
        index_version=request.index_version,
        sampler=Sampler(width=settings.rl.group_size),
        codes=codes.tolist(),
        log_probs=log_probs.tolist(),
        item_ids=heads.tolist(),
        rewards=[None if item == NO_ITEM else float(item % 7) / 7 for item in heads],
        requested_ms=request.requested_ms,
        produced_ms=request.requested_ms,
    )


class FakeFleet:
    """Answers every request of a run, some of them twice, until it is closed."""

    def __init__(self, run: TinyRun) -> None:
        self.run = run
        self.answered = 0
        self._stop = Event()
        self._thread = Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _serve(self) -> None:
        settings = self.run.settings
        partitions = dict.fromkeys(range(settings.stream.partitions), 0)
        reader = LogReader(self.run.kafka, self.run.topic("rollout-requests"), partitions, 10.0)
        producer = Producer(self.run.kafka, 10.0)
        checkpoints = self.run.folder / "checkpoints"
        while not self._stop.is_set():
            for record in reader.poll(50, 0.05):
                request = decode(RolloutRequest, record.value)
                assert isinstance(request, RolloutRequest), request
                index, version = grown_index(request.index_version), committed(checkpoints)[-1]
                value = answer(request, version, policy_blob(checkpoints, version), settings, index).to_bytes()
                for _ in range(1 + record.offset % 2):
                    producer.send(self.run.topic("rollout-groups"), value, record.partition)
                self.answered += 1
            producer.flush()
        reader.close()
        producer.close()
