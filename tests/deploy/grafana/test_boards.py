"""The dashboards: the files are what is described, and show only what is served, without overlap."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any, get_args

import pytest

from common.metric_catalogue import CATALOGUE
from deploy.grafana.__main__ import FOLDER, text
from deploy.grafana.boards import DASHBOARDS
from deploy.grafana.panel import COLUMNS, Dashboard, Panel, Unit
from tests.deploy.promql import EXPOSED, faults, names_read

FILES = sorted(FOLDER.glob("*.json"))


def expressions(board: dict[str, Any]) -> list[str]:
    return [target["expr"].replace("$__rate_interval", "5m") for panel in board["panels"] for target in panel["targets"]]


def overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    return a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]


def test_the_files_are_what_is_described() -> None:
    made = {f"{board.name}.json": text(board) for board in DASHBOARDS}
    assert {path.name: path.read_text() for path in FILES} == made, "run: python -m deploy.grafana"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_panel_shows_what_is_served(path: Any) -> None:
    board = json.loads(path.read_text())
    assert [fault for expression in expressions(board) for fault in faults(expression)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_have_ids_units_titles_and_a_place_of_their_own(path: Any) -> None:
    board = json.loads(path.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels) > 10
    sources = {variable["name"] for variable in board["templating"]["list"] if variable["type"] == "datasource"}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        assert panel["fieldConfig"]["defaults"]["unit"] in get_args(Unit)
        assert {panel["datasource"]["uid"], *(target["datasource"]["uid"] for target in panel["targets"])} == {
            "${datasource}"
        }
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
    assert sources == {"datasource"}
    assert not [(a["title"], b["title"]) for a, b in combinations(panels, 2) if overlap(a["gridPos"], b["gridPos"])]


def test_every_metric_is_on_a_dashboard() -> None:
    shown = {
        name for path in FILES for expression in expressions(json.loads(path.read_text())) for name in names_read(expression)
    }
    hidden = [e.name for e in CATALOGUE.values() if not shown & {e.name + end for end in EXPOSED[e.kind]}]
    assert hidden == []


def test_dashboards_are_told_apart() -> None:
    boards = [json.loads(path.read_text()) for path in FILES]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards) == 4


def test_a_row_is_of_one_kind_and_full_rows_break() -> None:
    panels = [Panel("a", "s", {"up": ""}, kind="stat")] + [Panel("b", "s", {"up": ""}) for _ in range(4)]
    placed = [panel["gridPos"] for panel in Dashboard("x", "X", panels).to_json()["panels"]]
    assert [(place["x"], place["y"]) for place in placed] == [(0, 0), (0, 4), (8, 4), (16, 4), (0, 12)]
