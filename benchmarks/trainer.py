"""On a live topic the trainer makes at least 0.9 of the steps a second that it makes on tensors already in memory.

The demo's policy and batches, on simulated sessions that lie on the topic of an embedded Kafka; reinforcement is off,
checkpoints, journal, history store and published parameters are as in any run. Steps are counted between the first and the
last, so that opening the run and its end do not count. The rival is `TrainingStep.run` with the same weights on the same
batches, of which contexts, features and targets are at hand. Both use one torch thread, as the trainer does.
"""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from benchmarks.harness import BenchResult, Claim, Race
from benchmarks.push import embedded_redis
from common.compute import compute_with
from common.features import Featurizer, PolicyInputs
from common.history import HistoryStore
from common.item_index import ItemIndex, snapshot_path
from common.policy import build_policy, load_weights, to_blob
from common.session_log import SessionLog
from common.sessions import load_initial_histories
from common.settings import Settings, SimulatorSettings, load_settings, save_settings
from common.stream import Record, create_topics
from deploy.data.replay import replay
from deploy.data.simulator import STATIC_FIELDS, simulate
from deploy.local.embedded import start_kafka
from deploy.local.processes import StackError, spawn
from tokenizer_job.job import FIRST_VERSION, build_index
from trainer.batches import BatchBuilder, warm_scores
from trainer.duration_reward import PLAY_TIMES, PlayTimes
from trainer.session_filter import SessionFilter
from trainer.step import SftSample, TrainingStep

Say = Callable[[str], None]
AT_LEAST = 0.9
PATIENCE_S = 300.0
"""Of a whole run of the trainer."""


class Scale(BaseModel):
    """The benchmark's size."""

    simulator: SimulatorSettings = SimulatorSettings(items=8_000, users=1_000, requests_per_user=70)
    days: int = 2
    """Of the stream."""
    overrides: tuple[str, ...] = ()
    """Settings that differ from the demo's."""
    runs: int = 3

    @property
    def settings(self) -> Settings:
        """The run's."""
        settings = load_settings("demo", ["rl.rate=0", "stream.partitions=1", *self.overrides])
        policy = settings.policy.model_copy(update={"static_fields": STATIC_FIELDS})
        return settings.model_copy(update={"simulator": self.simulator, "policy": policy})


def run(data: Path, on_progress: Say) -> BenchResult:  # noqa: ARG001 - sessions are simulated
    """Takes about two minutes."""
    return compare(Scale(), on_progress)


def compare(scale: Scale, on_progress: Say) -> BenchResult:
    """The benchmark at any scale."""
    compute_with(threads=1)
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        world = World(scale, Path(name), opened.enter_context(embedded_redis(Path(name))), on_progress)
        kafka = start_kafka(Path(name) / "kafka", Path(name) / "kafka.log")
        opened.callback(kafka.child.terminate, 5.0)
        on_progress("making the batches that the rival trains on")
        ready = world.ready_batches()
        steps, timed = len(ready), Race([], [])
        on_progress(f"{steps:,} steps, {scale.runs} times")
        for number in range(scale.runs):
            if number % 2:
                timed.rival.append(world.in_memory(ready))
            timed.ours.append(world.live(kafka.address))
            if not number % 2:
                timed.rival.append(world.in_memory(ready))
    claim = Claim(
        claim=f"at least {AT_LEAST:g} of the steps in memory", holds=timed.ratio >= AT_LEAST, figures={"ratio": timed.ratio}
    )
    return BenchResult(
        name="trainer",
        value=1 / timed.value,
        unit="steps a second",
        rival=1 / timed.rival_value,
        ratio=timed.ratio,
        spread=timed.spread,
        details={
            "steps": steps,
            "seconds_a_step": {"ours": timed.ours, "rival": timed.rival},
            "claims": [claim],
            "scale": scale.model_dump(mode="json"),
        },
    )


@dataclass(frozen=True, slots=True)
class ReadyBatch:
    """What one step needs, in memory."""

    samples: list[SftSample]
    inputs: list[PolicyInputs]


class World:
    """A session log, its item index and a policy, of which any number of runs can be made."""

    def __init__(self, scale: Scale, folder: Path, redis_url: str, on_progress: Say) -> None:
        self.settings, self.folder, self.days, self.redis_url = scale.settings, folder, scale.days, redis_url
        settings = self.settings
        simulate(settings, folder / "log", on_progress)
        self.log = SessionLog.open(folder / "log")
        build_index(self.log, settings, folder, settings.split.warm_days, on_progress)
        self.index = ItemIndex.load(snapshot_path(folder / "index", FIRST_VERSION))
        self.blob = to_blob(build_policy(settings.policy, settings.seed))

    def live(self, kafka: str) -> float:
        """Seconds a step of a new run, from whose beginning all sessions are on the topic."""
        name = f"bench-{secrets.token_hex(4)}"
        folder = self._run_folder(name, kafka)
        stream, first = self.settings.stream, self.settings.split.warm_days
        create_topics(kafka, name, stream.partitions, stream.timeout_s)
        replay(self.log, kafka, name, stream.partitions, first, first + self.days - 1, run_folder=folder)
        command = [sys.executable, "-m", "trainer", "--run-folder", str(folder)]
        child = spawn(command, folder / "trainer.log", {"ONEREC_REDIS__URL": self.redis_url}, "trainer")
        child.wait(PATIENCE_S)
        if child.terminate(5.0) != 0:
            raise StackError(f"the trainer failed: {child.log_tail()}")
        lines = [json.loads(line) for line in (folder / "trainer_stats.jsonl").read_text().splitlines()]
        return float(lines[-1]["time_ms"] - lines[0]["time_ms"]) / 1000 / (len(lines) - 1)

    def in_memory(self, batches: list[ReadyBatch]) -> float:
        """Seconds a step of the same steps, without a loop around them."""
        policy = build_policy(self.settings.policy, 0)
        load_weights(policy, self.blob)
        training = TrainingStep(policy, Featurizer(self.settings.policy, self.index), self.settings)
        began = 0.0
        for number, batch in enumerate(batches, 1):
            training.run(batch.samples, [], number, inputs=batch.inputs)
            began = began or time.perf_counter()
        return (time.perf_counter() - began) / (len(batches) - 1)

    def ready_batches(self) -> list[ReadyBatch]:
        """The batches that a run on one partition cuts."""
        settings, featurizer = self.settings, Featurizer(self.settings.policy, self.index)
        chosen = SessionFilter(settings.filter)
        chosen.prime(warm_scores(self.log, settings.split.warm_days))
        size, batches = settings.trainer.batch_sessions, []
        with HistoryStore(self.folder / "history.sqlite") as history:
            load_initial_histories(self.log, history, settings.split.warm_days)
            builder = BatchBuilder(settings, self.index, history, chosen, PlayTimes(PLAY_TIMES))
            records = self._records()
            for start in range(0, len(records), size):
                part = records[start : start + size]
                samples = builder.build(part, {0: (start, start + len(part))}).samples
                contexts = [sample.context for sample in samples]
                batches.append(ReadyBatch(samples, [featurizer(contexts)] if contexts else []))
        return batches

    def _records(self) -> list[Record]:
        first = self.settings.split.warm_days
        sessions = self.log.sessions(first, first + self.days - 1)
        return [Record("sessions", 0, k, one.time_ms, None, one.to_bytes(), []) for k, one in enumerate(sessions)]

    def _run_folder(self, name: str, kafka: str) -> Path:
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        for shared in ("log", "index"):
            (folder / shared).symlink_to(self.folder / shared)
        (folder / "pretrained").mkdir()
        (folder / "pretrained" / "policy.safetensors").write_bytes(self.blob)
        save_settings(self.settings, folder / "settings.json")
        endpoints = {"run": name, "kafka": kafka, "prefix": name, "reward": ""}
        (folder / "endpoints.json").write_text(json.dumps(endpoints))
        return folder
