from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import combinations

import pytest

from deploy.dashboard.parts import Part
from deploy.dashboard.picture import TALL, WIDE, Layout, arrow_labels, draw
from deploy.dashboard.state import LoopState
from deploy.dashboard.watch import Watch
from deploy.local.run_folder import RunFolder

LAYOUTS = pytest.mark.parametrize("layout", [WIDE, TALL], ids=lambda layout: layout.name)


@pytest.fixture(scope="module")
def state(recorded: RunFolder) -> LoopState:
    with Watch(recorded) as watch:
        return watch.look()


@LAYOUTS
def test_boxes_stand_apart_within_the_picture(layout: Layout) -> None:
    for (name, a), (other, b) in combinations(layout.boxes.items(), 2):
        apart = a.x + a.width < b.x or b.x + b.width < a.x or a.y + a.height < b.y or b.y + b.height < a.y
        assert apart, (name, other)
    for name, box in layout.boxes.items():
        assert 0 < box.x < box.x + box.width <= layout.width, name
        assert 0 < box.y < box.y + box.height <= layout.height, name


@LAYOUTS
def test_an_arrow_leads_from_one_box_to_another(layout: Layout) -> None:
    """Its ends are a head's length away from a box at most."""
    for arrow in layout.arrows:
        start, end = ends(arrow.path)
        touched = [{name for name, box in layout.boxes.items() if near(box, point)} for point in (start, end)]
        assert all(len(names) == 1 for names in touched), arrow
        assert touched[0] != touched[1], arrow


def ends(path: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """First and last point of a path of M, H and V."""
    start, *moves = re.findall(r"[MHV][\d. ]+", path)
    x, y = map(float, start[1:].split())
    first = (x, y)
    for move in moves:
        x, y = (float(move[1:]), y) if move[0] == "H" else (x, float(move[1:]))
    return first, (x, y)


def near(box: tuple[float, float, float, float], point: tuple[float, float]) -> bool:
    left, top, width, height = box
    return left - 7 <= point[0] <= left + width + 7 and top - 7 <= point[1] <= top + height + 7


@LAYOUTS
def test_every_arrow_has_what_it_tells(layout: Layout, state: LoopState) -> None:
    assert {arrow.label for arrow in layout.arrows} - {""} <= arrow_labels(state).keys()


@LAYOUTS
def test_a_part_looks_as_it_is(layout: Layout, state: LoopState) -> None:
    parts = [Part(name=part.name, state="down" if part.name == "rollout" else "ready") for part in state.parts]
    drawn = ET.fromstring(draw(state.model_copy(update={"parts": parts}), layout))  # noqa: S314 - our own drawing
    looks = {group[1].text: group.attrib["class"] for group in drawn if group.tag == "g"}
    assert looks["rollout fleet"] == "part down"
    assert looks["trainer"] == "part ready"
    assert looks["sessions"] == "topic ready"
