"""A session log on disk: the catalogue, the users and their sessions in time order, as any importer leaves them.

A log folder holds ``log.json`` (manifest), ``items.jsonl.gz``, ``users.jsonl.gz``, ``sessions.jsonl.gz`` (one message per
line) and optionally ``content.npy`` (float32, row k belongs to the k-th item: one vector, or several) with
``content_mask.npy`` (which of several are there). It is written beside its place and renamed into it, so that there is a
whole log or none.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from common.content import Content
from common.messages import Item, LabelBits, Message, Session, User, decode

DAY_MS = 86_400_000
MANIFEST, ITEMS, USERS, SESSIONS, CONTENT, CONTENT_MASK = (
    "log.json",
    "items.jsonl.gz",
    "users.jsonl.gz",
    "sessions.jsonl.gz",
    "content.npy",
    "content_mask.npy",
)
_FILES = (ITEMS, USERS, SESSIONS)
Count = Annotated[int, Field(ge=0)]
Array = npt.NDArray[Any]
M = TypeVar("M", bound=Message)


class LogManifest(Message):
    """What a session log holds."""

    source: str
    """What it was made of. If no profile is named, `kuairand` and `amazon` are run by theirs, all else by `demo`."""
    day0_ms: int
    """Midnight, in the data's own time zone, that begins the day of the first session (unix ms)."""
    items: Count
    """Lines of `items.jsonl.gz`; the rows of `content.npy` are in their order."""
    users: Count
    """Lines of `users.jsonl.gz`."""
    sessions: Count
    """Lines of `sessions.jsonl.gz`."""
    impressions: Count
    """Of all sessions."""
    static_fields: list[str]
    """Names of the profiles' fields; the policy reads those that `policy.static_fields` names."""
    positive_label: LabelBits
    """Bits of `Label`: an impression with one of them is a target at evaluation."""


@dataclass(frozen=True)
class SessionLog:
    """Reads a log folder. Open it with `SessionLog.open`."""

    path: Path
    manifest: LogManifest

    @staticmethod
    def open(path: Path) -> SessionLog:
        """Open a log folder.

        Raises:
            ValueError: the folder is not a session log; says what is missing or wrong.
        """
        if not (path / MANIFEST).is_file():
            raise ValueError(f"{path} is not a session log folder: missing {MANIFEST}")
        manifest = decode(LogManifest, (path / MANIFEST).read_bytes())
        if isinstance(manifest, str):
            raise ValueError(f"{path} is not a session log folder: {MANIFEST}: {manifest}")
        for name in _FILES:
            if not (path / name).is_file():
                raise ValueError(f"{path} is not a session log folder: missing {name}")
        return SessionLog(path, manifest)

    def items(self) -> list[Item]:
        """The catalogue, in the order of the rows of `content`."""
        return list(_read(self.path / ITEMS, Item))

    def users(self) -> Iterator[User]:
        """All users, with their initial histories."""
        return _read(self.path / USERS, User)

    def sessions(self, first_day: int = 0, last_day: int | None = None) -> Iterator[Session]:
        """Sessions of the days ``first_day..last_day`` (both included; None: to the end), in time order."""
        for session in _read(self.path / SESSIONS, Session):
            day = self.day_of(session.time_ms)
            if last_day is not None and day > last_day:
                return
            if day >= first_day:
                yield session

    def day_of(self, time_ms: int) -> int:
        """Day number of a time, counted from the day of the first session (0)."""
        return (time_ms - self.manifest.day0_ms) // DAY_MS

    def content(self) -> Content | None:
        """Content vectors, row k of the k-th item; None where the log has none.

        Raises:
            ValueError: there is not one row per item, or a vector is not finite.
        """
        if not (self.path / CONTENT).is_file():
            return None
        mask = self.path / CONTENT_MASK
        content = Content.of(
            np.load(self.path / CONTENT, allow_pickle=False), np.load(mask, allow_pickle=False) if mask.is_file() else None
        )
        _check_rows(content, self.manifest.items)
        return content


class LogWriter:
    """Writes a log folder at ``path``; days are cut at midnight of the time zone ``utc_offset_ms`` east of UTC."""

    def __init__(
        self, path: Path, source: str, positive_label: int, static_fields: list[str], utc_offset_ms: int = 0
    ) -> None:
        self.path = path
        self.source = source
        self.positive_label = int(positive_label)
        self.static_fields = static_fields
        self.utc_offset_ms = utc_offset_ms

    def write(
        self,
        items: Iterable[Item],
        users: Iterable[User],
        sessions: Iterable[Session],
        content: Content | None = None,
        extra: Mapping[str, Array] | None = None,
    ) -> LogManifest:
        """Write everything, or nothing. ``extra`` arrays become ``NAME.npy`` files (a name may hold a subfolder).

        Raises:
            ValueError: the place is taken, there are no sessions, they are out of time order, or content does not fit.
        """
        if self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir())):
            raise ValueError(f"{self.path} already exists: choose another folder or remove it")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", dir=self.path.parent))
        try:
            manifest = self._fill(folder, items, users, sessions, content)
            for name, array in (extra or {}).items():
                _save_array(folder / f"{name}.npy", array)
            _save_bytes(folder / MANIFEST, manifest.model_dump_json(indent=2).encode())
            os.replace(folder, self.path)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return manifest

    def _fill(
        self,
        folder: Path,
        items: Iterable[Item],
        users: Iterable[User],
        sessions: Iterable[Session],
        content: Content | None,
    ) -> LogManifest:
        n_items = _write(folder / ITEMS, items)
        n_users = _write(folder / USERS, users)
        if content is not None:
            _check_rows(content, n_items)
            _save_content(folder, content)
        checked = _InOrder(sessions)
        n_sessions = _write(folder / SESSIONS, checked)
        if n_sessions == 0:
            raise ValueError(f"the log of {self.source} has no sessions")
        first_day = (checked.first_ms + self.utc_offset_ms) // DAY_MS
        return LogManifest(
            source=self.source,
            day0_ms=first_day * DAY_MS - self.utc_offset_ms,
            items=n_items,
            users=n_users,
            sessions=n_sessions,
            impressions=checked.impressions,
            static_fields=self.static_fields,
            positive_label=self.positive_label,
        )


class _InOrder:
    """Passes sessions through, counts them, and refuses a step back in time."""

    def __init__(self, sessions: Iterable[Session]) -> None:
        self.sessions = sessions
        self.first_ms = -1
        self.impressions = 0

    def __iter__(self) -> Iterator[Session]:
        last = -1
        for session in self.sessions:
            if session.time_ms < last:
                raise ValueError(f"sessions must be in time order: {session.session_id} at {session.time_ms} follows {last}")
            last = session.time_ms
            self.first_ms = last if self.first_ms < 0 else self.first_ms
            self.impressions += len(session.impressions)
            yield session


def _check_rows(content: Content, items: int) -> None:
    if len(content) != items:
        raise ValueError(f"content must have one row per item ({items}), got {len(content)}")


def _save_content(folder: Path, content: Content) -> None:
    single = content.tokens.shape[1] == 1 and content.mask.all()
    _save_array(folder / CONTENT, content.tokens[:, 0] if single else content.tokens)
    if not content.mask.all():
        _save_array(folder / CONTENT_MASK, content.mask)


def _write(path: Path, messages: Iterable[Message]) -> int:
    """One message per line; bytes depend on the messages only. Returns their number."""
    count = 0
    with path.open("wb") as raw:
        packed = gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=3, mtime=0)
        with packed, io.BufferedWriter(packed, 1 << 20) as lines:
            for message in messages:
                lines.write(message.to_bytes() + b"\n")
                count += 1
        _sync(raw)
    return count


def _read(path: Path, model: type[M]) -> Iterator[M]:
    number = 0
    try:
        with gzip.open(path, "rb") as lines:
            for line in lines:
                number += 1
                message = decode(model, line)
                if isinstance(message, str):
                    raise ValueError(f"{path} line {number}: {message}")
                yield message
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged after line {number}: {error}") from error


def _save_array(path: Path, array: Array) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        _sync(file)


def _save_bytes(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        _sync(file)


def _sync(file: io.BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())
