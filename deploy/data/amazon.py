"""Imports Amazon reviews (McAuley et al., 2014, 5-core, the cut of S3-Rec, P5 and TIGER) -> a session log.

A review is a session of one click. Reviews carry days only, so event number ``pos`` of a user happens ``pos`` ms into its
day: a user's order is strict. A user without dates starts in the middle (the median first day of the users with
dates) and goes on by the file's relative times, so that only its place among other users is made up.
Item ids stay as they are; row k of ``content.npy`` is the text vector of the k-th item of ``items.jsonl.gz``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.content import Content
from common.messages import Impression, Item, Label, Session, User
from common.session_log import LogManifest, LogWriter
from deploy.data.tables import Row, read_csv, read_json_lines, require_files

INTERACTIONS, ITEMS, CONTENT = "interactions.csv.gz", "items.jsonl.gz", "minilm_l6_v2_f16.npy"
LEVEL_SEPARATOR = " > "


def import_amazon(folder: Path, out: Path, on_progress: Callable[[str], None] = lambda _: None) -> LogManifest:
    """Read an Amazon folder and write a session log with content vectors at ``out``; targets are clicks.

    Raises:
        ValueError: the folder is not Amazon's (names the missing file), a row is wrong (names file, line, column).
    """
    require_files(folder, "an Amazon reviews", (INTERACTIONS, ITEMS, CONTENT))
    on_progress(f"reading {folder}")
    items, content_rows = _items(folder / ITEMS)
    vectors = np.load(folder / CONTENT, allow_pickle=False)
    if vectors.ndim != 2 or len(vectors) <= max(content_rows):
        raise ValueError(
            f"{folder / CONTENT} must have a row for every item up to {max(content_rows) + 1}, got {vectors.shape}"
        )
    content = Content.of(vectors[content_rows])
    sessions = _sessions(folder / INTERACTIONS)
    users = (User(user_id=user) for user in sorted({session.user_id for session in sessions}))
    manifest = LogWriter(out, "amazon", Label.CLICK, []).write(items, users, sessions, content)
    on_progress(f"wrote {manifest.sessions:,} events of {manifest.users:,} users to {out}")
    return manifest


def _items(path: Path) -> tuple[list[Item], list[int]]:
    """The catalogue by item id, and each item's row of the vectors (item k has row k - 1)."""
    lines = sorted(read_json_lines(path), key=lambda line: int(line["item"]))
    if not lines or int(lines[0]["item"]) < 1:
        raise ValueError(f"{path}: items must be numbered from 1, got {lines[0]['item'] if lines else 'none'}")
    brands = _codes({_brand(line) for line in lines} - {""})
    levels = _codes({level for line in lines for level in _levels(line)})
    items = [
        Item(
            item_id=int(line["item"]),
            author_id=brands.get(_brand(line), 0),
            tags=[levels[level] for level in _levels(line)],
            title=line.get("title") or "",
            category=_levels(line)[-1] if _levels(line) else "",
        )
        for line in lines
    ]
    return items, [item.item_id - 1 for item in items]


def _codes(names: set[str]) -> dict[str, int]:
    """Codes from 1 by sorted name: the same for one catalogue, whatever the order of its lines."""
    return {name: code for code, name in enumerate(sorted(names), 1)}


def _levels(line: dict[str, Any]) -> list[str]:
    """The last category path's prefixes: "Beauty", "Beauty > Makeup", … (equal words on other paths stay apart)."""
    path: list[str] = (line.get("categories") or [[]])[-1]
    return [LEVEL_SEPARATOR.join(path[: depth + 1]) for depth in range(len(path))]


def _brand(line: dict[str, Any]) -> str:
    """The first attribute, unless it is already a category word: then the brand is unknown ("")."""
    attributes: list[str] = line.get("attributes") or []
    words = {word for path in line.get("categories") or [] for word in path}
    return attributes[0] if attributes and attributes[0] not in words else ""


def _sessions(path: Path) -> list[Session]:
    by_user: dict[int, list[Row]] = defaultdict(list)
    for row in read_csv(path, ("user", "item", "pos", "rel_time_s", "timestamp")):
        by_user[row.number("user")].append(row)
    for rows in by_user.values():
        rows.sort(key=lambda row: row.number("pos"))
    starts = sorted(rows[0].number("timestamp") for rows in by_user.values() if rows[0]["timestamp"])
    if not starts:
        raise ValueError(f"{path}: no user has timestamps")
    middle = starts[len(starts) // 2]
    sessions = [s for user, rows in by_user.items() for s in _user_sessions(user, rows, middle)]
    return sorted(sessions, key=lambda s: (s.time_ms, s.user_id))


def _user_sessions(user: int, rows: list[Row], middle_s: int) -> Iterator[Session]:
    latest = 0
    for row in rows:
        day_s = row.number("timestamp") if row["timestamp"] else middle_s + row.number("rel_time_s")
        latest = max(latest + 1, day_s * 1000 + row.number("pos"))
        impression = Impression(item_id=row.number("item"), time_ms=latest, labels=Label.CLICK)
        yield Session(session_id=f"{user}-{row.number('pos')}", user_id=user, time_ms=latest, impressions=[impression])
