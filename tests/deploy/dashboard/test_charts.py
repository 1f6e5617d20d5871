from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.dashboard.charts import BOTTOM, CHARTS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, draw

VALUES = st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 3)), min_size=2, max_size=50)


@given(VALUES)
def test_a_course_stays_within_its_frame_and_between_its_ticks(values: list[float]) -> None:
    drawn = draw(CHARTS[0], [(float(k), value) for k, value in enumerate(values)])
    line = re.search(r'points="([^"]+)"', drawn)
    assert line is not None
    points = [tuple(map(float, point.split(","))) for point in line[1].split()]
    assert len(points) == len(values)
    assert all(LEFT <= x <= WIDTH - RIGHT + 0.1 and TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1 for x, y in points)
    ticks = [float(tick) for tick in re.findall(r'text-anchor="end">(-?[\d.e+-]+)</text>', drawn)]
    assert 2 <= len(ticks) <= 6
    assert ticks == sorted(ticks)


@pytest.mark.parametrize("points", [[], [(0.5, 1.0)]])
def test_what_is_not_there_yet_is_said(points: list[tuple[float, float]]) -> None:
    assert "nothing measured yet" in draw(CHARTS[0], points)
