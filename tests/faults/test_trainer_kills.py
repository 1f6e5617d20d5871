"""The trainer is killed (-9) again and again at random moments of one run: as it starts, steps, checkpoints, publishes.

Every session must be trained exactly once, and what the run ends with must not depend on where it was interrupted.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from threading import Event

import pytest

from common.messages import Session
from tests.faults.conftest import Note
from tests.trainer.fake_fleet import FakeFleet
from tests.trainer.test_loop import final, start, steps_recorded
from tests.trainer.tiny_run import TinyRun, stream_sessions
from trainer.__main__ import train
from trainer.journal import entries_after
from trainer.retrain import retrain

pytestmark = [pytest.mark.faults, pytest.mark.timeout(5400)]
KILLS = int(os.environ.get("ONEREC_FAULT_KILLS", "100"))
PER_LIFE = 40
"""Sessions that arrive while a trainer lives: ten steps, two checkpoints."""
STARTS_S = 15.0
"""Within this time of its start some trainers are killed before they have done a step."""
PATIENCE_S = 120.0


@pytest.fixture(autouse=True)
def _redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEREC_REDIS__URL", redis_url)


class Lives:
    """The trainers of one run, one after the other; ``recovery_s`` are the times from a kill to the next new step."""

    def __init__(self, run: TinyRun, sessions: list[Session], seed: int) -> None:
        self.run, self.sessions, self.random = run, sessions, random.Random(seed)
        self.ends: dict[int, int] = {}
        self.recovery_s: list[float] = []
        self.killed_at: float | None = None

    def live_and_die(self) -> None:
        """One trainer: some sessions arrive, and it is killed after a random number of steps and a moment more."""
        self.ends |= self.run.send([self.sessions.pop(0) for _ in range(PER_LIFE)], end=False)
        before = steps_recorded(self.run)
        trainer = start(self.run)
        try:
            wanted = self.random.randrange(10)
            if wanted:
                self._await_steps(trainer, before, wanted)
            _survives(trainer, self.random.uniform(0, 0.1 if wanted else STARTS_S))
        finally:
            trainer.kill()
            trainer.wait()
        self.killed_at = self.killed_at if steps_recorded(self.run) == before and self.killed_at else time.monotonic()

    def _await_steps(self, trainer: subprocess.Popen[bytes], before: int, wanted: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while (done := steps_recorded(self.run) - before) < wanted:
            if done and self.killed_at:
                self.recovery_s.append(time.monotonic() - self.killed_at)
                self.killed_at = None
            assert trainer.poll() is None, f"the trainer ended by itself with status {trainer.returncode}"
            assert time.monotonic() < deadline, f"{done} of {wanted} steps after {PATIENCE_S:g} s"
            time.sleep(0.002)  # a file of another process: nothing to await


def _survives(trainer: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait, unless the trainer ends before, which it must not."""
    try:
        code = trainer.wait(seconds)
    except subprocess.TimeoutExpired:
        return
    raise AssertionError(f"the trainer ended by itself with status {code}")


def killed_often(run: TinyRun, kills: int, seed: int) -> Lives:
    """A run whose trainer was killed that often, then finished; its first checkpoint is kept beside the newest ones."""
    lives = Lives(run, stream_sessions(kills * PER_LIFE, seed=seed), seed)
    beginning = run.folder / "checkpoints" / f"{0:08d}"
    aside = run.folder / "beginning"
    for _ in range(kills):
        lives.live_and_die()
        if not aside.exists() and (beginning / "COMMITTED").exists():
            shutil.copytree(beginning, aside)
    run.tell_end(lives.ends)
    train(run.folder, Event())
    if not beginning.exists():
        shutil.copytree(aside, beginning)
    return lives


def check_ledger(run: TinyRun, sessions: int) -> None:
    """Every record of the sessions topic is in exactly one step, and every session counts once."""
    entries = entries_after(run.folder / "journal.jsonl", 0)
    taken = [(p, o) for entry in entries for p, (first, end) in entry.ranges.items() for o in range(first, end)]
    counters = final(run).state.counters
    assert len(taken) == len(set(taken)) == sessions
    assert (counters["sessions.consumed"], counters["sessions.valid"]) == (sessions, sessions)
    assert counters["sessions.duplicates"] == counters["sessions.rejected"] == 0
    settled = [group.request for entry in entries for group in entry.groups if group.request]
    assert len(settled) == len(set(settled)) == counters.get("requests.sent", 0)


def test_killed_a_hundred_times_with_rollouts(tmp_path: Path, kafka: str, note: Note) -> None:
    run = TinyRun.make(tmp_path / "run", kafka, "stream.partitions=2", "rl.rate=0.3", "trainer.drain_s=30")
    fleet = FakeFleet(run)
    try:
        lives = killed_often(run, KILLS, seed=1)
    finally:
        fleet.close()
    check_ledger(run, KILLS * PER_LIFE)
    found = retrain(run.folder, tmp_path / "again", first=0)
    assert found.differences() == []
    groups = found.recorded.state.counters["groups.trained"]
    assert groups > KILLS / 10
    mean = statistics.mean(lives.recovery_s)
    note(kills=KILLS, sessions=KILLS * PER_LIFE, groups=groups, recovery_mean_s=mean, recovery_max_s=max(lives.recovery_s))
    assert mean < 15.0


def test_killed_often_it_ends_as_a_run_that_was_never_interrupted(tmp_path: Path, kafka: str, note: Note) -> None:
    """Without reinforcement and with one partition a run depends on the log alone."""
    kills = max(KILLS // 5, 1)
    settings = ("stream.partitions=1", "rl.rate=0")
    killed = TinyRun.make(tmp_path / "killed", kafka, *settings)
    killed_often(killed, kills, seed=2)
    check_ledger(killed, kills * PER_LIFE)
    whole = TinyRun.make(tmp_path / "whole", kafka, *settings)
    whole.send(stream_sessions(kills * PER_LIFE, seed=2))
    train(whole.folder, Event())
    assert final(killed).policy == final(whole).policy
    assert final(killed).state.counters == final(whole).state.counters
    note(kills=kills, sessions=kills * PER_LIFE)
