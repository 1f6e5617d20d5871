"""Trainer and fleet are killed (-9) in each phase of their work, and go on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from threading import Event

import pytest

from common.messages import RolloutGroup
from tests.faults.dies_at import FLEET, TRAINER
from tests.faults.test_trainer_kills import check_ledger
from tests.rollout.test_fleet import PARTITIONS, Stack, decoded, saboteur, stack
from tests.rollout.tiny_run import tiny_request
from tests.trainer.fake_fleet import FakeFleet
from tests.trainer.tiny_run import TinyRun, stream_sessions
from trainer.__main__ import train
from trainer.retrain import retrain

__all__ = ["saboteur", "stack"]  # fixtures
pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
SESSIONS, USERS = 60, 12
DIES_S = 90.0


def dies(phase: str, worker: str, folder: Path, redis_url: str) -> None:
    """A worker of the run is killed in the phase."""
    command = [sys.executable, "-m", "tests.faults.dies_at", phase, worker, "--run-folder", str(folder)]
    code = subprocess.run(command, env=os.environ | {"ONEREC_REDIS__URL": redis_url}, timeout=DIES_S, check=False).returncode
    assert code == -signal.SIGKILL, f"the {worker} ended with status {code} before: {phase}"


@pytest.mark.parametrize("phase", TRAINER)
def test_the_trainer(phase: str, tmp_path: Path, kafka: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEREC_REDIS__URL", redis_url)
    run = TinyRun.make(tmp_path / "run", kafka, "stream.partitions=2", "rl.rate=0.3", "trainer.drain_s=30")
    run.send(stream_sessions(SESSIONS))
    fleet = FakeFleet(run)
    try:
        dies(phase, "trainer", run.folder, redis_url)
        train(run.folder, Event())
    finally:
        fleet.close()
    check_ledger(run, SESSIONS)
    found = retrain(run.folder, tmp_path / "again", first=None)
    assert found.differences() == []
    assert found.recorded.state.counters["groups.trained"] > 0


@pytest.mark.parametrize("phase", FLEET)
def test_the_fleet(phase: str, stack: Stack) -> None:
    requests = [tiny_request(user, stack.prefix) for user in range(USERS)]
    for user, request in enumerate(requests):
        stack.send(request.to_bytes(), user % PARTITIONS)
    stack.producer.flush()
    dies(phase, "rollout", stack.folder, stack.redis_url)
    with stack.fleet():
        groups = decoded(RolloutGroup, stack.read("rollout-groups", USERS))
    found = Counter(group.request_id for group in groups)
    assert found.keys() == {request.request_id for request in requests}
    assert not [group for group in groups if group.failure]
    # what was produced and not yet noted is produced again, the same but for when; the trainer counts it as a duplicate
    made = {(group.request_id, str(group.codes), str(group.rewards)) for group in groups}
    assert len(made) == USERS
    assert stack.read("dead-letters", 1, timeout_s=1.0) == []
