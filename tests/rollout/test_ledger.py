"""Positions of the request partitions."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.ledger import Frontier, Ledger


@given(st.lists(st.integers(1, 3), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_the_position_never_passes_an_open_offset(gaps: list[int], random: Random) -> None:
    offsets = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    frontier = Frontier(0)
    for offset in offsets:
        frontier.begin(offset)
    still_open = list(offsets)
    random.shuffle(still_open)
    while still_open:
        assert frontier.position == min(still_open)
        frontier.settle(still_open.pop())
    assert frontier.position == offsets[-1] + 1


def test_an_offset_read_twice_is_an_error() -> None:
    frontier = Frontier(5)
    frontier.begin(5)
    with pytest.raises(ValueError, match="at least 6, got 5"):
        frontier.begin(5)


def test_positions_survive_a_restart(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "fleet.json", "r", 2)
    assert ledger.positions == {0: 0, 1: 0}
    for offset in range(4):
        ledger.frontiers[1].begin(offset)
    for settled in (0, 1, 3):
        ledger.frontiers[1].settle(settled)
    ledger.save()
    assert Ledger(tmp_path / "fleet.json", "r", 2).positions == {0: 0, 1: 2}


@pytest.mark.parametrize(("run", "partitions", "message"), [("other", 2, "belongs to run 'r'"), ("r", 3, "partitions 0..2")])
def test_another_runs_ledger_is_refused(tmp_path: Path, run: str, partitions: int, message: str) -> None:
    Ledger(tmp_path / "fleet.json", "r", 2).save()
    with pytest.raises(ValueError, match=message):
        Ledger(tmp_path / "fleet.json", run, partitions)


def test_a_torn_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fleet.json").write_text('{"run": "r"')
    with pytest.raises(ValueError, match="not a ledger"):
        Ledger(tmp_path / "fleet.json", "r", 2)
