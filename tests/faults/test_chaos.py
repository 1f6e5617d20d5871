"""One part of a running loop after the other is killed or frozen, at random moments, while sessions keep coming.

`make chaos` runs it for half an hour. What must hold: within 30 seconds the trainer trains again; every session is in
exactly one step; every group that was made bears the rewards that the reward model gives; the loop's memory stays flat.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import psutil
import pytest

from common.messages import NO_ITEM, Message, RolloutGroup, RolloutRequest, ScoreRequest, decode
from common.session_log import SessionLog
from common.settings import load_settings
from common.stream import LogReader, StreamError, topic_name
from deploy.local.run_folder import read_json, read_lines
from reward_service.rewards import Rewards
from reward_service.scorer import Scorer
from tests.faults.conftest import Note
from tests.loop.up import UNTRAINED, Up

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(7200),
    # kafka-python leaves the sockets of a broker that is gone to the garbage collector: the ledger reads until then
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
FAULTS = int(os.environ.get("ONEREC_CHAOS_FAULTS", "10"))
SEED = int(os.environ.get("ONEREC_CHAOS_SEED", "0"))
ONLY = os.environ.get("ONEREC_CHAOS_ONLY", "")
"""One of `WHAT`, to look at it alone."""
EVERY_S = float(os.environ.get("ONEREC_CHAOS_EVERY_S", "15"))
RESUMES_S = 30.0
FROZEN_S = 20.0
STREAM_DAYS = 2
OTHERS_S = 60.0
"""Of streaming that no fault falls into: starting, and the end."""


def journal_steps(up: Up) -> int:
    return len(read_lines(up.run.path / "journal.jsonl"))


def pid_of(up: Up, part: str) -> int:
    pid: int = read_json(up.run.processes)[part]
    return pid


def actors(up: Up) -> list[int]:
    """Process ids of the rollout actors."""
    return [process.pid for process in up.processes() if process.name().startswith("ray::RolloutProc")]


def kill_part(part: str) -> Callable[[Up, random.Random], None]:
    return lambda up, _: os.kill(pid_of(up, part), signal.SIGKILL)


def kill_an_actor(up: Up, rng: random.Random) -> None:
    up.until(lambda: bool(actors(up)))
    os.kill(rng.choice(actors(up)), signal.SIGKILL)


def kill_all_actors(up: Up, _: random.Random) -> None:
    up.until(lambda: bool(actors(up)))
    for pid in actors(up):
        os.kill(pid, signal.SIGKILL)


def freeze_broker(up: Up, _: random.Random) -> None:
    os.kill(pid_of(up, "kafka"), signal.SIGSTOP)
    try:
        up.stays(FROZEN_S)
    finally:
        os.kill(pid_of(up, "kafka"), signal.SIGCONT)


WHAT: dict[str, Callable[[Up, random.Random], None]] = {
    "trainer killed": kill_part("trainer"),
    "reward service killed": kill_part("reward"),
    "Redis killed": kill_part("redis"),
    "fleet killed": kill_part("rollout"),
    "tokenizer killed": kill_part("tokenizer"),
    "recommend endpoint killed": kill_part("recommend"),
    "an actor killed": kill_an_actor,
    "all actors killed": kill_all_actors,
    "broker frozen": freeze_broker,
}


class Ledger:
    """Reads all requests and groups of a run as they are made: the broker forgets them when the run ends."""

    def __init__(self, up: Up) -> None:
        endpoints, partitions = read_json(up.run.endpoints), range(up.run.settings.stream.partitions)
        kinds: dict[str, type[Message]] = {"rollout-requests": RolloutRequest, "rollout-groups": RolloutGroup}
        self.found: dict[str, list[Message]] = {name: [] for name in kinds}
        self._stop = Event()
        self._readers = {
            kind: LogReader(endpoints["kafka"], topic_name(endpoints["prefix"], name), dict.fromkeys(partitions, 0), 60.0)
            for name, kind in kinds.items()
        }
        self._thread = Thread(target=self._read, name="ledger", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        try:
            while not self._stop.is_set():
                for (name, found), (kind, reader) in zip(self.found.items(), self._readers.items(), strict=True):
                    messages = [decode(kind, record.value) for record in reader.poll(500, 0.1)]
                    assert not [one for one in messages if isinstance(one, str)], name
                    found += [one for one in messages if not isinstance(one, str)]
        except StreamError:  # the run has ended, and the broker with it
            pass
        finally:
            for reader in self._readers.values():
                reader.close()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """A run that streams for as long as the faults take."""
    lasts_s = FAULTS * (EVERY_S + RESUMES_S / 2) + OTHERS_S
    speed = STREAM_DAYS * 86_400 / lasts_s
    settings = ["simulator.requests_per_user=200", "simulator.users=200", "rl.rate=0.1"]
    settings += ["reward.online.publish_every=0", "tokenizer.online.publish_every_s=3600"]  # rewards stay those of one model
    overrides = [part for setting in settings for part in ("--set", setting)]
    up = Up.start(tmp_path, *UNTRAINED, *overrides, "--speed", f"{speed:g}", "--report", str(tmp_path / "report.json"))
    yield up
    up.process.kill()
    up.process.wait()


def test_the_loop_goes_on_whatever_dies(up: Up, tmp_path: Path, note: Note) -> None:
    rng, resumed, taken = random.Random(SEED), dict[str, list[float]](), list[Usage]()
    up.until(lambda: up.run.endpoints.exists())
    ledger = Ledger(up)
    try:
        up.until(lambda: journal_steps(up) >= 10)
        for fault in _plan(rng):
            up.stays(rng.uniform(0.5, 1.5) * EVERY_S)
            taken.append(usage(up))
            began = time.monotonic()
            WHAT[fault](up, rng)
            steps, frozen_s = journal_steps(up), FROZEN_S if fault == "broker frozen" else 0.0
            up.until(lambda steps=steps: journal_steps(up) > steps)  # type: ignore[misc]
            resumed.setdefault(fault, []).append(time.monotonic() - began - frozen_s)
        assert up.process.wait(600) == 0, up.output.read_text()
    finally:
        ledger.close()
    report = json.loads((tmp_path / "report.json").read_text())
    checked = check_rewards(up, ledger)
    worst = {fault: max(times) for fault, times in resumed.items()}
    note(
        seed=SEED,
        faults=FAULTS,
        resumed_s=resumed,
        groups_checked=checked,
        restarts=report["restarts"],
        growth=growth(taken),
    )
    check_sessions(up, report)
    groups = report["groups"]
    assert checked >= groups["trained"]  # the ledger missed none
    assert groups["trained"] + sum(groups["dropped"].values()) == groups["requested"]
    assert report["dead_letters"]["count"] == 0
    assert max(worst.values()) < RESUMES_S, worst
    for part, ratios in growth(taken).items():
        if part != "kafka":  # which is in memory, and keeps all it gets
            assert max(ratios.values()) < 1.2, (part, ratios)
    assert up.survivors() == []


def _plan(rng: random.Random) -> list[str]:
    """Every fault as often as any other, in random order."""
    plan: list[str] = [ONLY] * FAULTS if ONLY else []
    while len(plan) < FAULTS:
        plan += rng.sample(sorted(WHAT), len(WHAT))
    return plan[:FAULTS]


Usage = dict[str, dict[str, int]]
"""By part: its process id, bytes in memory, open files, threads."""


def usage(up: Up) -> Usage:
    """What every part of the loop takes now; of one that is just starting again there is nothing."""
    found: Usage = {}
    for part, pid in read_json(up.run.processes).items():
        try:
            process = psutil.Process(pid)
            figures = {"memory": process.memory_info().rss, "files": process.num_fds(), "threads": process.num_threads()}
            found[part] = {"pid": pid, **figures}
        except psutil.NoSuchProcess:
            continue
    return found


def growth(taken: list[Usage]) -> dict[str, dict[str, float]]:
    """How much more the longest-lived process of a part takes in the last third of its samples than in the first third,
    its very first two left out: ratios of medians, of those with enough samples."""
    lives: dict[tuple[str, int], list[dict[str, int]]] = {}
    for one in taken:
        for part, figures in one.items():
            lives.setdefault((part, figures["pid"]), []).append(figures)
    found: dict[str, dict[str, float]] = {}
    for (part, _), samples in sorted(lives.items(), key=lambda life: len(life[1])):
        third = (len(samples) - 2) // 3
        if third >= 2:
            medians = {
                name: [statistics.median(one[name] for one in some) for some in (samples[2 : 2 + third], samples[-third:])]
                for name in ("memory", "files", "threads")
            }
            found[part] = {name: last / first for name, (first, last) in medians.items()}
    return found


def check_sessions(up: Up, report: dict[str, Any]) -> None:
    """Every session of the streamed days is in exactly one step."""
    split = up.run.settings.split
    log = SessionLog.open(up.run.log)
    streamed = sum(1 for _ in log.sessions(split.warm_days, split.warm_days + split.stream_days - 1))
    entries = [line["entry"] for line in read_lines(up.run.path / "journal.jsonl")]
    taken = [(p, o) for entry in entries for p, (first, end) in entry["ranges"].items() for o in range(first, end)]
    counts = report["sessions"]
    # after a failure the replayer sends again what it is not sure of: those are dropped as duplicates
    assert len(taken) == len(set(taken)) == counts["consumed"]
    assert counts["valid"] == counts["consumed"] - counts["duplicates"] == streamed


def check_rewards(up: Up, ledger: Ledger) -> int:
    """The rewards of every group are those of the model that it names; how many groups there were."""
    requests = {one.request_id: one for one in ledger.found["rollout-requests"] if isinstance(one, RolloutRequest)}
    groups = [one for one in ledger.found["rollout-groups"] if isinstance(one, RolloutGroup) and not one.failure]
    settings = load_settings(up.run.path / "settings.json")
    scorer = Scorer(up.run.path / "reward", up.run.index, Rewards(settings.reward))
    held = [group for group in groups if group.index_version in scorer.index_versions]
    try:
        for group in held:
            items = [item for item in group.item_ids if item != NO_ITEM]
            asked = ScoreRequest(
                context=requests[group.request_id].context, item_ids=items or [0], index_version=group.index_version
            )
            expected = scorer.score(asked).rewards if items else []
            assert [reward is None for reward in group.rewards] == [item == NO_ITEM for item in group.item_ids]
            found = [reward for reward in group.rewards if reward is not None]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    finally:
        scorer.close()
    assert len(held) > FAULTS
    return len(held)
