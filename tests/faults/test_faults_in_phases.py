"""Every fault is given to a whole loop in each phase of its work, while the worker that is in it is held there.

The loop goes on when the trainer makes a step again, and a group is trained that was asked for after the fault.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.run_folder import read_json
from tests.faults.conftest import Note
from tests.faults.held.sitecustomize import FOLDER, PHASES, Hold
from tests.faults.whole_loop import (
    FROZEN_S,
    RESUMES_S,
    WHAT,
    Ledger,
    check_loop,
    journal_steps,
    streaming,
    until_it_learns_from_rollouts,
    until_it_trains_again,
)
from tests.loop.up import Up

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(900),
    # kafka-python leaves the sockets of a broker that is gone to the garbage collector: the ledger reads until then
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
GIVEN = ("an actor killed", "all actors killed", "reward service killed", "Redis killed", "broker frozen")
EACH_S = 15.0
"""Of streaming, for each fault and the return to what it was."""
SITE = Path(__file__).parent / "held"


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    (tmp_path / "hold").mkdir()
    return Hold(tmp_path / "hold")


@pytest.fixture
def up(tmp_path: Path, hold: Hold) -> Iterator[Up]:
    """A run whose workers can be held."""
    path = os.pathsep.join(filter(None, (str(SITE), os.environ.get("PYTHONPATH", ""))))
    environment = {"PYTHONPATH": path, FOLDER: str(hold.held.parent)}
    up = streaming(tmp_path, FROZEN_S + (len(GIVEN) + 1) * EACH_S, users=100, requests=60, environment=environment)
    yield up
    up.process.kill()
    up.process.wait()


@pytest.mark.parametrize("phase", PHASES)
def test_the_loop_goes_on(phase: str, up: Up, hold: Hold, note: Note) -> None:
    rng, trains, learns = random.Random(0), dict[str, float](), dict[str, float]()
    up.until(lambda: up.run.endpoints.exists())
    ledger = Ledger(up)
    try:
        up.until(lambda: journal_steps(up) >= 10)
        for fault in GIVEN:
            hold.ask(phase)
            up.until(lambda: hold.holder() is not None)
            with WHAT[fault](up, rng):
                assert hold.holder() is not None  # the fault has come while it was held
                hold.release()
            steps = journal_steps(up)
            trains[fault] = until_it_trains_again(up, steps)
            learns[fault] = trains[fault] + until_it_learns_from_rollouts(up, steps)
        assert up.process.wait(300) == 0, up.output.read_text()
    finally:
        ledger.close()
    report, checked = check_loop(up, ledger)
    dropped = report["groups"]["dropped"]
    note(phase=phase, trains_s=trains, learns_s=learns, groups_checked=checked, dropped=dropped)
    assert checked > len(GIVEN)
    assert max(learns.values()) < RESUMES_S, learns
    assert read_json(up.run.stack)["restarts"]["reward"] == read_json(up.run.stack)["restarts"]["redis"] == 1
    assert up.survivors() == []
