"""One part of a running loop after the other is killed or frozen, at random moments, while sessions keep coming.

`make chaos` runs it for half an hour. What must hold: within 30 seconds the trainer trains again; every session is in
exactly one step; every group that was made bears the rewards that the reward model gives; the loop's memory stays flat.
"""

from __future__ import annotations

import os
import random
import statistics
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.local.run_folder import read_json
from tests.faults.conftest import Note
from tests.faults.whole_loop import (
    RESUMES_S,
    WHAT,
    Ledger,
    check_loop,
    journal_steps,
    streaming,
    until_it_trains_again,
)
from tests.loop.up import Up

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
OTHERS_S = 60.0
"""Of streaming that no fault falls into: starting, and the end."""


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """A run that streams for as long as the faults take."""
    up = streaming(tmp_path, FAULTS * (EVERY_S + RESUMES_S / 2) + OTHERS_S, users=200, requests=200)
    yield up
    up.process.kill()
    up.process.wait()


def test_the_loop_goes_on_whatever_dies(up: Up, note: Note) -> None:
    rng, resumed, taken = random.Random(SEED), dict[str, list[float]](), list[Usage]()
    up.until(lambda: up.run.endpoints.exists())
    ledger = Ledger(up)
    try:
        up.until(lambda: journal_steps(up) >= 10)
        for fault in _plan(rng):
            up.stays(rng.uniform(0.5, 1.5) * EVERY_S)
            taken.append(usage(up))
            with WHAT[fault](up, rng):
                pass
            resumed.setdefault(fault, []).append(until_it_trains_again(up, journal_steps(up)))
        assert up.process.wait(600) == 0, up.output.read_text()
    finally:
        ledger.close()
    report, checked = check_loop(up, ledger)
    worst = {fault: max(times) for fault, times in resumed.items()}
    note(
        seed=SEED,
        faults=FAULTS,
        resumed_s=resumed,
        groups_checked=checked,
        restarts=report["restarts"],
        growth=growth(taken),
    )
    assert checked > FAULTS
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
