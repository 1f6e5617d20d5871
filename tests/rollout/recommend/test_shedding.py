from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.recommend.shedding import Shedder


def test_nothing_is_known_at_first_and_all_are_admitted() -> None:
    assert Shedder(0.25).admits(10_000)


def test_those_are_admitted_who_are_done_within_the_budget() -> None:
    shedder = Shedder(0.25)
    shedder.observe(users=8, seconds=0.4)
    assert [shedder.admits(waiting) for waiting in (0, 1, 4, 5, 100)] == [True, True, True, False, False]


def test_one_is_always_admitted_so_that_the_pace_is_learned_anew() -> None:
    shedder = Shedder(0.25)
    shedder.observe(users=1, seconds=60.0)
    assert shedder.admits(0)
    assert not shedder.admits(1)
    for _ in range(40):
        shedder.observe(users=1, seconds=0.01)
    assert shedder.admits(10)


@given(st.lists(st.tuples(st.integers(1, 8), st.floats(0.001, 10.0)), min_size=1))
def test_the_expected_pace_lies_between_those_seen(batches: list[tuple[int, float]]) -> None:
    shedder = Shedder(1.0)
    for users, seconds in batches:
        shedder.observe(users, seconds)
    paces = [seconds / users for users, seconds in batches]
    assert shedder.seconds_per_user == pytest.approx(min(max(shedder.seconds_per_user, min(paces)), max(paces)))
