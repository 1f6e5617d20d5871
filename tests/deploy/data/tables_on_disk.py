"""Writes small gzipped tables for the importers' tests."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def write_csv(path: Path, header: str, rows: Sequence[str]) -> None:
    path.write_bytes(gzip.compress("\n".join([header, *rows, ""]).encode()))


def write_json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def shared_data(name: str) -> Path:
    """A public data set beside the checkout; skips the test where it is absent."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"the public data set {SHARED / name} is not on this machine")
    return SHARED / name
