from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness import Race, copy_rate, product_rate, race

Times = st.lists(st.tuples(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3)), min_size=1, max_size=9)


@given(Times)
def test_the_ratio_of_medians_lies_within_the_spread(times: list[tuple[float, float]]) -> None:
    measured = Race([ours for ours, _ in times], [rival for _, rival in times])
    low, high = measured.spread
    assert low * (1 - 1e-9) <= measured.ratio <= high * (1 + 1e-9)


def test_rivals_take_turns_at_going_first() -> None:
    calls: list[str] = []
    measured = race(lambda: calls.append("ours"), lambda: calls.append("rival"), runs=3, warm_up=False)
    assert calls == ["ours", "rival", "rival", "ours", "ours", "rival"]
    assert len(measured.ours) == len(measured.rival) == 3


def test_the_warm_up_is_not_measured() -> None:
    calls: list[str] = []
    measured = race(lambda: calls.append("ours"), lambda: calls.append("rival"), runs=1)
    assert calls == ["ours", "rival", "ours", "rival"]
    assert len(measured.ours) == 1


def test_the_slower_rival_gives_a_ratio_above_one() -> None:
    measured = Race(ours=[1.0, 2.0, 4.0], rival=[3.0, 4.0, 4.0])
    assert (measured.value, measured.rival_value, measured.ratio) == (2.0, 4.0, 2.0)
    assert measured.spread == (1.0, 3.0)


def test_rates_are_of_a_plausible_machine() -> None:
    assert 1e8 < product_rate(256, 256, 256, runs=2) < 1e15
    assert 1e7 < copy_rate(1 << 20, runs=2) < 1e13
