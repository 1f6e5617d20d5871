"""On a live topic the trainer makes at least 0.9 of the steps a second that it makes on tensors already in memory.

The policies of v1-0.015b, the paper's smallest, and of the demo, in the demo's batches, on simulated sessions that lie on
the topic of an embedded Kafka; reinforcement is off, checkpoints, journal, history store and published parameters are as in
any run. Steps are counted between the first and the last, so that opening the run and its end do not count. The rival is
`TrainingStep.run` with the same weights on the same batches, of which contexts, features and targets are at hand. Both use
one torch thread, as the trainer does.
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


class Stream(BaseModel):
    """The sessions that a policy is trained on."""

    simulator: SimulatorSettings
    days: int
    codes: int
    """Of each level: no more than their items can fill."""


class Scale(BaseModel):
    """The benchmark's size."""

    streams: dict[str, Stream] = {
        "v1-0.015b": Stream(simulator=SimulatorSettings(items=20_000, users=400, requests_per_user=70), days=1, codes=1_024),
        "demo": Stream(simulator=SimulatorSettings(items=8_000, users=1_000, requests_per_user=70), days=2, codes=96),
    }
    """By the profile whose policy it is."""
    overrides: tuple[str, ...] = ()
    """Settings that differ from the demo's, and from the profile's policy."""
    runs: int = 3

    def settings(self, profile: str) -> Settings:
        """Of a run."""
        stream = self.streams[profile]
        overrides = ["rl.rate=0", "stream.partitions=1", f"policy.codes={stream.codes}", *self.overrides]
        settings = load_settings("demo", overrides)
        policy = load_settings(profile, overrides).policy.model_copy(update={"static_fields": STATIC_FIELDS})
        return settings.model_copy(update={"simulator": stream.simulator, "policy": policy})


class Timed(BaseModel):
    """Seconds a step, run by run."""

    steps: int
    ours: list[float] = []
    rival: list[float] = []

    @property
    def race(self) -> Race:
        """The same, compared."""
        return Race(self.ours, self.rival)


def run(data: Path, on_progress: Say) -> BenchResult:  # noqa: ARG001 - sessions are simulated
    """Takes about eight minutes."""
    return compare(Scale(), on_progress)


def compare(scale: Scale, on_progress: Say) -> BenchResult:
    """The benchmark at any scale; its figures are those of the first policy."""
    compute_with(threads=1)
    found = {profile: measure(scale, profile, on_progress) for profile in scale.streams}
    first = next(iter(found.values())).race
    claims = [
        Claim(
            claim=f"{profile}: at least {AT_LEAST:g} of the steps in memory",
            holds=one.race.ratio >= AT_LEAST,
            figures={"ratio": one.race.ratio, "spread": one.race.spread},
        )
        for profile, one in found.items()
    ]
    return BenchResult(
        name="trainer",
        value=1 / first.value,
        unit="steps a second",
        rival=1 / first.rival_value,
        ratio=first.ratio,
        spread=first.spread,
        details={
            "claims": claims,
            "seconds_a_step": {profile: one.model_dump(mode="json") for profile, one in found.items()},
            "scale": scale.model_dump(mode="json"),
        },
    )


def measure(scale: Scale, profile: str, on_progress: Say) -> Timed:
    """One policy's steps, live and in memory, turn by turn."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        world = World(scale, profile, Path(name), opened.enter_context(embedded_redis(Path(name))), on_progress)
        kafka = start_kafka(Path(name) / "kafka", Path(name) / "kafka.log")
        opened.callback(kafka.child.terminate, 5.0)
        on_progress(f"{profile}: making the batches that the rival trains on")
        ready = world.ready_batches()
        timed = Timed(steps=len(ready))
        for number in range(scale.runs):
            on_progress(f"{profile}: {timed.steps:,} steps, run {number + 1} of {scale.runs}")
            if number % 2:
                timed.rival.append(world.in_memory(ready))
            timed.ours.append(world.live(kafka.address))
            if not number % 2:
                timed.rival.append(world.in_memory(ready))
    return timed


@dataclass(frozen=True, slots=True)
class ReadyBatch:
    """What one step needs, in memory."""

    samples: list[SftSample]
    inputs: list[PolicyInputs]


class World:
    """A session log, its item index and a policy, of which any number of runs can be made."""

    def __init__(self, scale: Scale, profile: str, folder: Path, redis_url: str, on_progress: Say) -> None:
        settings = self.settings = scale.settings(profile)
        self.folder, self.days, self.redis_url = folder, scale.streams[profile].days, redis_url
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
