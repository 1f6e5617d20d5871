"""Each user's events, readable "as of" a position of the user's partition of the sessions topic.

The store is one SQLite file. Events that were known before the stream began sit at position `INITIAL`; everything else
sits at its offset. A read names a position and sees strictly smaller ones only, so the future never leaks into a sample
however far the store has read ahead. The log can always be re-read into the store: appending is idempotent.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from types import TracebackType

from common.context import UserEvents
from common.settings import PolicySettings

Position = tuple[int, int]
"""(partition, offset) of a record."""
Ranges = dict[int, tuple[int, int]]
"""Partition -> [first offset, last offset + 1)."""
INITIAL = -1
"""Position (and partition) of what is known of a user before the stream begins."""
CONTEXT_EVENTS = 1000
"""Newest events that a context holds."""
LIFELONG_CONTEXT_EVENTS = 100_000
"""The same where the policy reads a lifelong pathway."""

_TABLES = """
CREATE TABLE IF NOT EXISTS events (
    user_id INTEGER NOT NULL, position INTEGER NOT NULL, session_id TEXT, data BLOB NOT NULL,
    PRIMARY KEY (user_id, position));
CREATE UNIQUE INDEX IF NOT EXISTS one_session ON events (user_id, session_id);
CREATE TABLE IF NOT EXISTS profiles (user_id INTEGER PRIMARY KEY, profile TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS ends (partition INTEGER PRIMARY KEY, position INTEGER NOT NULL);
"""


class HistoryError(ValueError):
    """The history asked for is not (or no longer consistently) in the store: names file, partition and positions."""


def ranges_between(before: dict[int, int], after: dict[int, int]) -> Ranges:
    """What was read between two states of a reader's positions; partitions that did not move are left out."""
    return {partition: (before[partition], end) for partition, end in sorted(after.items()) if end > before[partition]}


def context_events(policy: PolicySettings) -> int:
    """How many of a user's newest events a context carries, the same wherever one is built."""
    return LIFELONG_CONTEXT_EVENTS if policy.lifelong_length else CONTEXT_EVENTS


class HistoryStore:
    """Histories, profiles and the contiguous end per partition. One writer, one thread; changes last from `commit` on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = sqlite3.connect(path)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise HistoryError(
                f"{path} is not a usable history store ({error}); delete it to have the log re-read"
            ) from None

    def append(self, partition: int, position: int, user_id: int, events: UserEvents, session_id: str | None = None) -> bool:
        """Put a session's events at a position of its user's partition, once, however often it is appended.

        Returns:
            True when the store holds these events at this position (whether new or re-read); False when the user's
            session of this id already sits at another position, that is, the log holds it twice.
        """
        if position < INITIAL or (position == INITIAL) != (partition == INITIAL):
            raise HistoryError(f"position must be >= 0, or {INITIAL} with partition {INITIAL}, got {partition}/{position}")
        row = (user_id, position, session_id, events.to_bytes())
        if self._db.execute("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?)", row).rowcount:
            return True
        where = "SELECT 1 FROM events WHERE user_id = ? AND position = ?"
        return self._db.execute(where, (user_id, position)).fetchone() is not None

    def set_profile(self, user_id: int, profile: dict[str, int]) -> None:
        """Remember a user's static profile."""
        self._db.execute("INSERT OR REPLACE INTO profiles VALUES (?, ?)", (user_id, json.dumps(profile)))

    def profile(self, user_id: int) -> dict[str, int]:
        """A user's static profile; empty where none is known."""
        row = self._db.execute("SELECT profile FROM profiles WHERE user_id = ?", (user_id,)).fetchone()
        return {} if row is None else {str(name): int(value) for name, value in json.loads(row[0]).items()}

    def as_of(self, user_id: int, partition: int, position: int, limit: int) -> UserEvents:
        """The newest ``limit`` events at positions smaller than ``position``, oldest first.

        Raises:
            HistoryError: the store has not yet read the partition up to ``position``; never a shorter history.
        """
        end = self.end(partition)
        if position > end:
            raise HistoryError(f"{self.path}: partition {partition} is read up to {end}, cannot answer as of {position}")
        rows = self._db.execute(
            "SELECT data FROM events WHERE user_id = ? AND position < ? ORDER BY position DESC", (user_id, position)
        )
        parts: list[UserEvents] = []
        held = 0
        for (data,) in rows:
            parts.append(UserEvents.from_bytes(data))
            held += len(parts[-1])
            if held >= limit:
                break
        return UserEvents.concatenate(parts[::-1]).last(limit)

    def end(self, partition: int) -> int:
        """The next position expected: everything before it has been appended (or was no session)."""
        row = self._db.execute("SELECT position FROM ends WHERE partition = ?", (partition,)).fetchone()
        return 0 if row is None else int(row[0])

    def advance(self, partition: int, end: int, start: int | None = None) -> None:
        """Say that everything before ``end`` (from ``start`` on, if given) has been appended. Never moves back.

        Raises:
            HistoryError: ``start`` lies beyond the present end, which would leave a hole.
        """
        held = self.end(partition)
        if start is not None and start > held:
            raise HistoryError(f"{self.path}: partition {partition} is read up to {held}, cannot go on from {start}")
        self._db.execute("INSERT OR REPLACE INTO ends VALUES (?, ?)", (partition, max(held, end)))

    def users(self) -> int:
        """How many users have events or a profile from before the stream."""
        row = self._db.execute("SELECT count(*) FROM events WHERE position = ?", (INITIAL,)).fetchone()
        return int(row[0])

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever put into it, not even what is known from before the stream."""
        ends = self._db.execute("SELECT count(*) FROM ends").fetchone()[0]
        return self.users() == 0 and ends == 0

    def commit(self) -> None:
        """Make everything since the last commit survive a crash of this process."""
        self._db.commit()

    def close(self) -> None:
        """Close the file; what was not committed is dropped."""
        self._db.close()

    def __enter__(self) -> HistoryStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def copy_as_of(source: Path, target: Path, ends: dict[int, int], bounds: dict[int, int]) -> None:
    """Write a store of what some users' histories were at an earlier position of the stream; the source may be in use.

    Args:
        source: the store of a run.
        target: the new one; must not exist.
        ends: partition -> where the new one ends.
        bounds: user -> the same of the user's partition; who is not named is left out.

    Raises:
        HistoryError: the source has not read up to there.
    """
    HistoryStore(target).close()
    with closing(sqlite3.connect(target.resolve().as_uri(), uri=True)) as db:
        db.execute("ATTACH ? AS run", (f"{source.resolve().as_uri()}?mode=rw",))
        held = dict(db.execute("SELECT partition, position FROM run.ends"))
        behind = {partition: held.get(partition, 0) for partition, end in ends.items() if held.get(partition, 0) < end}
        if behind:
            raise HistoryError(f"{source} is read up to {behind}, cannot be copied as of {ends}")
        db.execute("CREATE TEMP TABLE bounds (user_id INTEGER PRIMARY KEY, bound INTEGER NOT NULL)")
        db.executemany("INSERT INTO bounds VALUES (?, ?)", bounds.items())
        db.execute("INSERT INTO main.events SELECT e.* FROM run.events e JOIN bounds USING (user_id) WHERE position < bound")
        db.execute("INSERT INTO main.profiles SELECT p.* FROM run.profiles p JOIN bounds USING (user_id)")
        db.executemany("INSERT INTO main.ends VALUES (?, ?)", ends.items())
        db.commit()
