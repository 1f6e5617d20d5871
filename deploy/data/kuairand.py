"""Imports KuaiRand (Gao et al., KuaiRand, CIKM 2022): Kuaishou short-video impressions -> a session log.

Sessions: one per user and 6-hour window (00-06, 06-12, 12-18, 18-24 h) of the ``date`` and ``hourmin`` columns, which
tell in Beijing time when the event was logged: some minutes after ``time_ms`` (an event of 23:55 may be dated the next
day). A session's time is its first event's, moved into its window where that lies outside, so that day numbers follow
``date``; impressions keep their own times.

Missing values: an empty number column means 0 (unknown duration, no author, not clicked). User, video, time and date
must be there. An empty profile value is left out of the profile. Duration 0 stays 0; impressions of videos that
the catalogue lacks are kept; users without a profile row get an empty profile.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from common.messages import Events, Impression, Item, Label, Session, User
from common.session_log import DAY_MS, LogManifest, LogWriter
from deploy.data.tables import Row, read_csv, read_json_lines, require_files, told_at, whole_number

INTERACTIONS, HISTORY, USERS, ITEMS = "interactions.csv.gz", "history_before_0425.jsonl.gz", "users.csv.gz", "items.csv.gz"
BEIJING_MS = 8 * 3_600_000
WINDOW_MS = DAY_MS // 4
MAX_DURATION_MS = 7 * DAY_MS
MAX_IMPRESSIONS = 1000
_LABELS = {
    "is_click": Label.CLICK,
    "is_like": Label.LIKE,
    "is_follow": Label.FOLLOW,
    "is_comment": Label.COMMENT,
    "is_forward": Label.FORWARD,
    "is_hate": Label.DISLIKE,
    "is_profile_enter": Label.PROFILE_ENTER,
    "long_view": Label.LONG_VIEW,
}
_NEEDED = ("user_id", "video_id", "time_ms", "date", "hourmin", "play_time_ms", "duration_ms", *_LABELS)


class _Watched(BaseModel):
    """A line of the histories."""

    user_id: int
    watch: list[int]
    like: list[int]
    long_watch: list[int]


def import_kuairand(folder: Path, out: Path, on_progress: Callable[[str], None] = lambda _: None) -> LogManifest:
    """Read a KuaiRand folder and write a session log at ``out``; ids stay as they are, targets are clicks.

    Raises:
        ValueError: the folder is not KuaiRand's (names the missing file), a row is wrong (names file, line, column).
    """
    require_files(folder, "a KuaiRand", (INTERACTIONS, HISTORY, USERS, ITEMS))
    on_progress(f"reading {folder / ITEMS}")
    items = _items(folder / ITEMS)
    on_progress(f"reading {folder / INTERACTIONS}")
    sessions = _sessions(folder / INTERACTIONS)
    on_progress(f"reading {folder / USERS} and {folder / HISTORY}")
    fields, profiles = _profiles(folder / USERS)
    histories = _histories(folder / HISTORY, {item.item_id: item.duration_ms for item in items})
    ids = profiles.keys() | histories.keys() | {session.user_id for session in sessions}
    users = (User(user_id=u, profile=profiles.get(u, {}), history=histories.get(u, Events())) for u in sorted(ids))
    manifest = LogWriter(out, "kuairand", Label.CLICK, fields, BEIJING_MS).write(items, users, sessions)
    on_progress(f"wrote {manifest.sessions:,} sessions with {manifest.impressions:,} impressions to {out}")
    return manifest


def _items(path: Path) -> list[Item]:
    return sorted(map(_item, read_csv(path, ("video_id",))), key=lambda item: item.item_id)


def _item(row: Row) -> Item:
    with told_at(row.where):
        return Item(
            item_id=row.number("video_id"),
            author_id=row.number_or_zero("author_id"),
            tags=[int(tag) for tag in row.get("tag", "").split(",") if tag.strip().isdecimal()],
            music_id=row.number_or_zero("music_id"),
            duration_ms=min(row.number_or_zero("video_duration"), MAX_DURATION_MS),
            publish_ms=_date_ms(row, "upload_dt", "%Y-%m-%d") if row.get("upload_dt") else 0,
            category=row.get("video_type", ""),
        )


def _date_ms(row: Row, column: str, form: str) -> int:
    """Beijing midnight of a date, unix ms."""
    try:
        day = datetime.strptime(row[column], form).replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{row.where}: {column} must be a date like {form}, got {row[column]!r}") from None
    return int(day.timestamp()) * 1000 - BEIJING_MS


def _sessions(path: Path) -> list[Session]:
    windows: dict[tuple[int, int], list[Impression]] = defaultdict(list)
    midnights: dict[str, int] = {}
    for row in read_csv(path, _NEEDED):
        date = row["date"]
        if date not in midnights:
            midnights[date] = _date_ms(row, "date", "%Y%m%d")
        hour = min(row.number("hourmin") // 100, 23)
        start = midnights[date] + hour * 3_600_000 // WINDOW_MS * WINDOW_MS
        windows[start, row.number("user_id")].append(_impression(row))
    sessions = [s for (start, user), rows in windows.items() for s in _window_sessions(start, user, rows)]
    return sorted(sessions, key=lambda s: (s.time_ms, s.user_id, s.session_id))


def _impression(row: Row) -> Impression:
    with told_at(row.where):
        return Impression(
            item_id=row.number("video_id"),
            time_ms=row.number("time_ms"),
            play_ms=min(row.number_or_zero("play_time_ms"), MAX_DURATION_MS),
            duration_ms=min(row.number_or_zero("duration_ms"), MAX_DURATION_MS),
            labels=sum(int(label) for column, label in _LABELS.items() if row.number_or_zero(column)),
            tab=row.number_or_zero("tab"),
        )


def _window_sessions(start: int, user: int, rows: list[Impression]) -> Iterator[Session]:
    """One session, or several where a window holds more impressions than a message may."""
    rows.sort(key=lambda i: (i.time_ms, i.item_id))
    window = (start + BEIJING_MS) // WINDOW_MS
    for part, first in enumerate(range(0, len(rows), MAX_IMPRESSIONS)):
        impressions = rows[first : first + MAX_IMPRESSIONS]
        time_ms = min(max(impressions[0].time_ms, start), start + WINDOW_MS - 1)
        yield Session(session_id=f"{user}-{window}-{part}", user_id=user, time_ms=time_ms, impressions=impressions)


def _profiles(path: Path) -> tuple[list[str], dict[int, dict[str, int]]]:
    """Field names, and each user's codes. A counter that also comes as a ``_range`` column is left out.

    A value that is a whole number >= 0 is its own code; any other text's code is its CRC-32, the same in every folder.
    """
    fields: list[str] = []
    profiles: dict[int, dict[str, int]] = {}
    for row in read_csv(path, ("user_id",)):
        fields = fields or [name for name in row if name != "user_id" and f"{name}_range" not in row]
        profiles[row.number("user_id")] = {name: _code(row[name]) for name in fields if row[name]}
    return fields, profiles


def _code(text: str) -> int:
    number = whole_number(text)
    return zlib.crc32(text.encode()) if number is None else number


def _histories(path: Path, durations: dict[int, int]) -> dict[int, Events]:
    lines = read_json_lines(path, _Watched)
    return {line.user_id: _history(line.watch, line.like, line.long_watch, durations) for line in lines}


def _history(watch: list[int], like: list[int], long_watch: list[int], durations: dict[int, int]) -> Events:
    """One sequence, oldest first, out of the last watches, likes and long watches.

    The lists are cut at the same length, so what was liked or watched long but is not among the last watches is older
    than all of them, and likes, being rarer, reach back further. A video that was watched more often than it was
    liked gets the like on its latest watches (long watches likewise). Times and play times are unknown (0).
    """
    open_labels = {Label.LIKE: Counter(like), Label.LONG_VIEW: Counter(long_watch)}

    def take(item: int) -> int:
        labels = 0
        for label, left in open_labels.items():
            if left[item] > 0:
                left[item] -= 1
                labels |= int(label)
        return labels

    newest_first = [(item, take(item)) for item in reversed(watch)]
    older = [(item, take(item)) for item in [*reversed(long_watch), *reversed(like)]]
    events = [*newest_first, *((item, labels) for item, labels in older if labels)][::-1]
    return Events(
        item_id=[item for item, _ in events],
        time_ms=[0] * len(events),
        play_ms=[0] * len(events),
        duration_ms=[durations.get(item, 0) for item, _ in events],
        labels=[int(Label.CLICK) | labels for _, labels in events],
    )
