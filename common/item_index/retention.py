"""Which snapshots of a folder stay: the newest ones and those that a reader has pinned."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from common.item_index.snapshot import snapshot_path, versions

PINS = "pins"
LEFT_OVER_S = 86_400.0
"""Age from which a snapshot that was never finished counts as left behind by a writer that died."""


def pin(folder: Path, reader: str, version: int) -> None:
    """Keep a version, and everything newer, for a reader; replaces what the reader had pinned before.

    Raises:
        ValueError: the reader's name is no plain file name, or the version is not committed.
    """
    if not re.fullmatch(r"\w[\w.-]*", reader):
        raise ValueError(f"reader must be letters, digits, '_', '-' and '.', got {reader!r}")
    if version not in versions(folder):
        raise ValueError(f"{folder} holds no committed index snapshot {version}")
    pins = folder / PINS
    pins.mkdir(exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".", dir=pins)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"version": version}, file)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).rename(pins / f"{reader}.json")


def prune(folder: Path, keep: int) -> list[int]:
    """Remove the snapshots that are neither among the newest ``keep`` nor pinned; returns their versions.

    A pin protects its version and everything newer. What a writer left unfinished more than a day ago goes, too.
    Snapshots that someone has memory-mapped stay readable for them.

    Raises:
        ValueError: ``keep`` is below 1, or a pin cannot be read (nothing is removed then).
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    committed = versions(folder)
    oldest_needed = min([*_pinned(folder), *committed[-keep:]], default=0)
    removed = [version for version in committed if version < oldest_needed]
    for version in removed:
        path = snapshot_path(folder, version)
        hidden = folder / f".{path.name}-removed"  # no reader may find half of it
        shutil.rmtree(hidden, ignore_errors=True)
        path.rename(hidden)
        shutil.rmtree(hidden)
    _remove_left_overs(folder)
    return removed


def _pinned(folder: Path) -> list[int]:
    out = []
    for path in sorted((folder / PINS).glob("[!.]*.json")):
        try:
            out.append(int(json.loads(path.read_bytes())["version"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"pin {path} cannot be read: {error}") from error
    return out


def _remove_left_overs(folder: Path) -> None:
    for path in folder.glob(".*"):
        unfinished = re.fullmatch(r"\.\d{6,}-\w+", path.name) and path.is_dir()
        if unfinished and time.time() - path.stat().st_mtime > LEFT_OVER_S:
            shutil.rmtree(path, ignore_errors=True)
