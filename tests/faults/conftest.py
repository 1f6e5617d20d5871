"""What every fault test shares: the servers' addresses, and a place for figures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import commit, machine

FIGURES = Path("runs") / "faults.jsonl"
Note = Callable[..., None]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Keeps what a test measured as one line of `FIGURES`, from which docs/reliability.md is written."""

    def keep(**figures: Any) -> None:
        FIGURES.parent.mkdir(exist_ok=True)
        line = {"test": request.node.name, "time_s": int(time.time()), "commit": commit(), "machine": machine(), **figures}
        with FIGURES.open("a") as file:
            file.write(json.dumps(line) + "\n")

    return keep
