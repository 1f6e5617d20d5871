"""One rollout worker: requests in, scored groups out. The fleet runs it as a Ray actor; it needs no Ray itself."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import xxhash

from common.compute import compute_with
from common.context import Context
from common.endpoints import Endpoints
from common.item_index import IndexFollower
from common.messages import NO_ITEM, RolloutGroup, RolloutRequest
from common.parameter_channel import ChannelError, Follower
from common.policy import bare_policy, take_over
from common.process_log import user_tag
from common.settings import load_settings
from common.worker import prefer_latency
from rollout.engine import Candidates, GenerationEngine
from rollout.groups import Origin, failed_group, sampler_of, scored_group
from rollout.reward_client import RewardClient, RewardError
from rollout.sampling import Truncation

FIRST_VERSION_S = 120.0
"""How long a starting worker waits for the trainer's first parameter version."""
SCORING_SHARE = 0.8
"""Share of ``rollout.timeout_s`` after which a batch's scores are given up, so that the group says so itself."""
PAUSE = 4.0
"""After a look at the parameter channel that failed batches go on without one, for so many times what it took."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one batch gave: encoded groups in the order of the requests, and how it went."""

    groups: list[bytes]
    parameter_version: int
    generate_ms: float
    score_ms: float
    legality: float  # share of candidates that are items; NaN if nothing was generated
    failures: int
    refused: dict[str, int]  # parameter manifests refused since the last answer, by reason


class RolloutWorker:
    """Generates and scores. Holds the policy (fp32), the current and the previous item index, and its place in the channel.

    Args:
        name: this reader's name in the parameter channel and in its groups.
        run_folder: holds settings.json, endpoints.json and index/.
        first_version_s: how long to wait for a first parameter version.

    Raises:
        TimeoutError: no parameter version appeared in time.
    """

    def __init__(self, name: str, run_folder: str, first_version_s: float = FIRST_VERSION_S) -> None:
        compute_with(threads=1)
        folder = Path(run_folder)
        endpoints = Endpoints.read(folder)
        self.name = name
        self.run = endpoints.run
        self.settings = load_settings(folder / "settings.json")
        self.version = -1
        self._indexes = IndexFollower(folder / "index")
        device = "cuda" if self.settings.rollout.actor_gpus else "cpu"
        self._policy = bare_policy(self.settings.policy, device).float()
        self._engines: dict[int, GenerationEngine] = {}
        self._sampler = sampler_of(self.settings.rl)
        self._rewards = RewardClient(endpoints.reward)
        redis = self.settings.redis
        self._told: Counter[str] = Counter()
        self._look_at = 0.0
        self._follower = Follower(redis.url.get_secret_value(), self.run, name, redis.timeout_s, folder)
        self._await_first_version(first_version_s)
        prefer_latency()

    def ready(self) -> int:
        """The parameter version held; answers only once there is one."""
        return self.version

    def handle(self, requests: list[RolloutRequest]) -> Answer:
        """Swap to the newest parameters (unless their channel has just failed) and item index, generate for all requests,
        score each.

        A request whose reward or index version could not be had gets a group that carries the failure and nothing else.
        """
        deadline = time.monotonic() + SCORING_SHARE * self.settings.rollout.timeout_s
        if time.monotonic() >= self._look_at:
            self._swap()
        self._indexes.poll()
        started = time.perf_counter()
        candidates = self._generate(requests)
        generate_ms = (time.perf_counter() - started) * 1000 / len(requests)
        groups = [
            self._group(request, given, generate_ms, deadline) for request, given in zip(requests, candidates, strict=True)
        ]
        found = [c.legality for c in candidates if c is not None]
        return Answer(
            groups=[group.to_bytes() for group in groups],
            parameter_version=self.version,
            generate_ms=generate_ms * len(requests),
            score_ms=sum(group.scored_ms for group in groups),
            legality=sum(found) / len(found) if found else math.nan,
            failures=sum(bool(group.failure) for group in groups),
            refused=self._newly_refused(),
        )

    def close(self) -> None:
        """Leave the parameter channel, stop following the index and close connections."""
        self._indexes.close()
        self._follower.close()
        self._rewards.close()

    def _await_first_version(self, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        while not self._swap():
            left = deadline - time.monotonic()
            if left <= 0:
                self.close()
                raise TimeoutError(f"{self.name}: no parameter version of run {self.run} appeared within {wait_s:g} s")
            try:
                self._follower.wait(min(left, 1.0))
            except ChannelError:  # said by `_swap` already
                time.sleep(min(left, 1.0))

    def _swap(self) -> bool:
        """Take the newest version if there is one; whether a version is held. An unreachable channel changes nothing."""
        began = time.monotonic()
        try:
            newer = self._follower.fetch_newer(self.version)
            if newer is not None:
                version, blob = newer
                take_over(self._policy, blob)
                self.version = version
                log.info("%s takes up parameter version %d", self.name, version, extra={"version": version})
                self._follower.acknowledge(version)
        except ChannelError as error:
            log.warning("%s stays at version %d: %s", self.name, self.version, error)
            now = time.monotonic()
            self._look_at = now + PAUSE * (now - began)  # one that hangs must not take every batch's time
        return self.version >= 0

    def _newly_refused(self) -> dict[str, int]:
        new = self._follower.refused - self._told
        self._told = self._follower.refused.copy()
        return dict(new)

    def _generate(self, requests: list[RolloutRequest]) -> list[Candidates | None]:
        """Candidates per request, None where its index version is gone. One search per index version."""
        out: list[Candidates | None] = [None] * len(requests)
        for asked in sorted({(request.index_version, request.tokenizer_version) for request in requests}):
            engine = self._engine(*asked)
            if engine is None:
                continue
            where = [k for k, request in enumerate(requests) if (request.index_version, request.tokenizer_version) == asked]
            contexts = [Context.from_message(requests[k].context) for k in where]
            seeds = [xxhash.xxh3_64_intdigest(requests[k].request_id.encode()) >> 1 for k in where]
            for k, candidates in zip(where, engine.generate(contexts, seeds), strict=True):
                out[k] = candidates
        return out

    def _engine(self, index_version: int, tokenizer_version: str) -> GenerationEngine | None:
        """The engine of an index version, None if that version is not held or was made by another tokenizer.

        A version newer than those held is loaded when first asked for, if `handle` has not taken it up before.
        """
        index = self._indexes.get(index_version)
        if index is None or index.tokenizer_version != tokenizer_version:
            return None
        if index_version not in self._engines:
            held = self._indexes.held
            self._engines = {version: engine for version, engine in self._engines.items() if version in held}
            rl = self.settings.rl
            truncation = Truncation(rl.top_k, rl.top_p) if rl.candidates == "sample" else None
            self._engines[index_version] = GenerationEngine(self._policy, index, rl.group_size, truncation=truncation)
        return self._engines[index_version]

    def _group(
        self, request: RolloutRequest, candidates: Candidates | None, generated_ms: float, deadline: float
    ) -> RolloutGroup:
        origin = Origin(self.name, self.version, self._sampler)
        if candidates is None:
            held = ", ".join(f"{version} of {index.tokenizer_version}" for version, index in self._indexes.held.items())
            wanted = f"item index {request.index_version} of tokenizer {request.tokenizer_version}"
            return failed_group(request, origin, f"gone: {wanted} is not held, only {held}")
        started = time.perf_counter()
        legal = candidates.item_ids[candidates.item_ids != NO_ITEM].tolist()
        try:
            scores = self._rewards.score(request.context, legal, request.index_version, deadline - time.monotonic())
        except RewardError as error:
            told = {"version": self.version, "user": user_tag(request.context.user_id)}
            log.warning("%s: no rewards for request %s: %s", self.name, request.request_id, error, extra=told)
            return failed_group(request, origin, str(error), generated_ms, _since_ms(started))
        return scored_group(request, origin, candidates, scores, generated_ms, _since_ms(started))


def _since_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000
