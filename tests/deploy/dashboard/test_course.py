from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.dashboard.course import POINTS, RATE_MS, Course, Meter


@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats(-1e3, 1e3)), min_size=1, max_size=300))
def test_a_course_is_bounded_in_order_and_keeps_the_mean(told: list[tuple[int, float]]) -> None:
    course, weights = Course(), 0.0
    for after_ms, value in told:
        course.add(1_700_000_000_000 + after_ms, value, weight=2.0)
        weights += 2.0
    points = course.points()
    assert 1 <= len(points) <= POINTS
    assert [time for time, _ in points] == sorted({time for time, _ in points})
    low, high = min(v for _, v in told), max(v for _, v in told)
    assert all(low - 1e-6 <= value <= high + 1e-6 for _, value in points)
    if len(points) == 1:
        assert points[0][1] == pytest.approx(sum(v for _, v in told) / len(told), abs=1e-6)


def test_what_is_no_number_is_left_out() -> None:
    course = Course()
    for second, value in enumerate((1.0, float("nan"), float("inf"))):
        course.add(1000 * second, value)
    assert course.points() == [(0.5, 1.0)]


def test_neighbours_of_a_long_course_become_one() -> None:
    course = Course()
    for second in range(2 * POINTS):
        course.add(1000 * second, float(second % 2))
    assert course.points() == [(2.0 * k + 1, 0.5) for k in range(POINTS)]


def test_a_meter_tells_the_rate_of_its_last_readings() -> None:
    meter = Meter()
    assert meter.per_second(0) is None
    for second in range(0, 60, 5):
        meter.add(1000 * second, 10.0 * second if second < 30 else 300.0 + 2 * (second - 30))
    assert meter.per_second(55_000) == pytest.approx(2.0)


def test_a_meter_of_a_process_that_began_anew_knows_nothing_at_first() -> None:
    meter = Meter()
    meter.add(0, 100.0)
    meter.add(1000, 110.0)
    meter.add(2000, None)
    assert meter.per_second(2000) == pytest.approx(10.0)
    meter.add(3000, 4.0)
    assert meter.per_second(3000) is None
    meter.add(4000, 6.0)
    assert meter.per_second(4000) == pytest.approx(2.0)


def test_a_counter_that_stands_still_or_is_not_told_has_no_rate_left() -> None:
    meter = Meter()
    meter.add(0, 5.0)
    meter.add(1000, 9.0)
    assert meter.per_second(1000 + RATE_MS) == pytest.approx(4.0)
    assert meter.per_second(1001 + RATE_MS) == 0.0
