"""A dashboard's panels, and the JSON that Grafana makes a dashboard of (schema version 39)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any, Literal

COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SIZES = {"stat": (4, 4), "timeseries": (8, 8)}
"""Width and height of a panel by kind, in Grafana's grid of 24 columns."""
Unit = Literal["none", "short", "s", "percentunit", "bytes", "flops", "cps", "reqps", "suffix: nats"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: ``queries`` (PromQL -> legend), their unit as Grafana names it, and what a reader should know."""

    title: str
    unit: Unit
    queries: dict[str, str]
    about: str = ""
    kind: Literal["stat", "timeseries"] = "timeseries"

    def to_json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """The panel at a place of the grid."""
        width, height = SIZES[self.kind]
        targets = [
            {"refId": letter, "expr": query, "legendFormat": legend, "datasource": SOURCE}
            for letter, (query, legend) in zip(ascii_uppercase, self.queries.items(), strict=False)
        ]
        options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
        if self.kind == "stat":
            options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none", "graphMode": "area"}
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.about,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": width, "h": height},
            "fieldConfig": {"defaults": {"unit": self.unit}, "overrides": []},
            "options": options,
            "targets": targets,
        }


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Panels under a name, laid out from left to right in rows of one kind."""

    name: str
    title: str
    panels: Sequence[Panel] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """What Grafana reads."""
        return {
            "uid": f"onerec-{self.name}",
            "title": self.title,
            "tags": ["onerec"],
            "schemaVersion": 39,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "annotations": {"list": []},
            "links": [{"type": "dashboards", "tags": ["onerec"], "title": "OneRec", "asDropdown": True, "keepTime": True}],
            "templating": {
                "list": [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
            },
            "panels": self._placed(),
        }

    def _placed(self) -> list[dict[str, Any]]:
        """The panels in the grid: a row is as high as its panels, which are all of one kind."""
        placed: list[dict[str, Any]] = []
        x = y = height = 0
        for number, panel in enumerate(self.panels, 1):
            width, needed = SIZES[panel.kind]
            if x + width > COLUMNS or (x and needed != height):
                x, y = 0, y + height
            placed.append(panel.to_json(number, x, y))
            x, height = x + width, needed
        return placed
