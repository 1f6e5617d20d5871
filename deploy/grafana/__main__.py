"""``python -m deploy.grafana``: write the dashboards' JSON anew."""

from __future__ import annotations

import json
from pathlib import Path

from deploy.grafana.boards import DASHBOARDS
from deploy.grafana.panel import Dashboard

FOLDER = Path(__file__).with_name("dashboards")


def text(dashboard: Dashboard) -> str:
    """A dashboard's file."""
    return json.dumps(dashboard.to_json(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every file."""
    FOLDER.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.name}.json").write_text(text(dashboard))


if __name__ == "__main__":
    main()
