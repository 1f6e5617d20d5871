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
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from common.content import Content
from common.messages import Impression, Item, Label, Session, User
from common.session_log import LogManifest, LogWriter
from deploy.data.tables import Row, read_csv, read_json_lines, require_files, told_at

INTERACTIONS, ITEMS, CONTENT = "interactions.csv.gz", "items.jsonl.gz", "minilm_l6_v2_f16.npy"
LEVEL_SEPARATOR = " > "


class Listed(BaseModel):
    """A line of the catalogue."""

    item: Annotated[int, Field(ge=1)]
    title: str | None = None
    categories: list[list[str]] | None = None
    """Category paths."""
    attributes: list[str] | None = None

    @property
    def path(self) -> list[str]:
        """The last category path; empty where there is none."""
        return (self.categories or [[]])[-1]


def import_amazon(folder: Path, out: Path, on_progress: Callable[[str], None] = lambda _: None) -> LogManifest:
    """Read an Amazon folder and write a session log with content vectors at ``out``; targets are clicks.

    Raises:
        ValueError: the folder is not Amazon's (names the missing file), a row is wrong (names file, line, column).
    """
    require_files(folder, "an Amazon reviews", (INTERACTIONS, ITEMS, CONTENT))
    on_progress(f"reading {folder}")
    items, content_rows = _items(folder / ITEMS)
    vectors = _vectors(folder / CONTENT)
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
    lines = sorted(read_json_lines(path, Listed), key=lambda line: line.item)
    if not lines:
        raise ValueError(f"{path} holds no items")
    brands = _codes({_brand(line) for line in lines} - {""})
    levels = _codes({level for line in lines for level in _levels(line)})
    items = [
        Item(
            item_id=line.item,
            author_id=brands.get(_brand(line), 0),
            tags=[levels[level] for level in _levels(line)],
            title=line.title or "",
            category=_levels(line)[-1] if _levels(line) else "",
        )
        for line in lines
    ]
    return items, [item.item_id - 1 for item in items]


def _codes(names: set[str]) -> dict[str, int]:
    """Codes from 1 by sorted name: the same for one catalogue, whatever the order of its lines."""
    return {name: code for code, name in enumerate(sorted(names), 1)}


def _levels(line: Listed) -> list[str]:
    """The last category path's prefixes: "Beauty", "Beauty > Makeup", … (equal words on other paths stay apart)."""
    return [LEVEL_SEPARATOR.join(line.path[: depth + 1]) for depth in range(len(line.path))]


def _brand(line: Listed) -> str:
    """The first attribute, unless it is already a category word: then the brand is unknown ("")."""
    words = {word for path in line.categories or [] for word in path}
    return next((brand for brand in (line.attributes or [])[:1] if brand not in words), "")


def _vectors(path: Path) -> npt.NDArray[Any]:
    try:
        vectors: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return vectors


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
        with told_at(row.where):
            shown = [Impression(item_id=row.number("item"), time_ms=latest, labels=Label.CLICK)]
            one = Session(session_id=f"{user}-{row.number('pos')}", user_id=user, time_ms=latest, impressions=shown)
        yield one
