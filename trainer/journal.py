"""The write-ahead journal: what enters each step, on disk before the step runs.

After a crash the steps behind the last checkpoint are executed again exactly as written here, so that no step is ever
trained in two different ways. One JSON line per step, each with its checksum. A last line without its newline was being
written when the process died; its step never ran, and it is dropped. Any other damage is an error.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.durable import drop_torn_line, sync_folder

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
Offset = Annotated[int, Field(ge=0)]


class JournalError(ValueError):
    """The journal is damaged or does not fit the checkpoint: names file and line."""


class SettledGroup(BaseModel):
    """One record of the groups topic (or none, for a request that was given up), and what became of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    record: tuple[Offset, Offset] | None
    """(partition, offset) in the groups topic."""
    request: tuple[Offset, Offset] | None
    """(partition, offset) of the session whose request this settles; None where it settles none."""
    request_id: str = ""
    outcome: str


class JournalEntry(BaseModel):
    """All that enters one step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: Annotated[int, Field(ge=1)]
    ranges: dict[int, tuple[Offset, Offset]] = {}
    """Sessions partition -> [first, last + 1)."""
    groups: list[SettledGroup] = []
    index_version: Annotated[int, Field(ge=1)]


class Journal:
    """The journal file of one run, or of one of its ranks, locked until it is closed. Opening it drops a torn last line.

    The publisher's lease alone would not keep a second trainer out: one that has lost its queue, not its disk, goes on.

    Raises:
        JournalError: another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise JournalError(f"{path} is another trainer's, which still runs: only one may carry a run on") from None
        drop_torn_line(path)
        _machine_file(path).write_text(_machine())
        sync_folder(path.parent)

    def append(self, entry: JournalEntry) -> None:
        """Write an entry; when this returns it is on disk and its step may run."""
        line = _line(entry)
        written = os.write(self._file, line)
        if written != len(line):
            raise JournalError(f"{self.path}: only {written} of {len(line)} bytes of step {entry.step} could be written")
        os.fsync(self._file)

    def after(self, step: int) -> list[JournalEntry]:
        """The entries of the steps behind ``step``, in order.

        Raises:
            JournalError: a line is damaged, or the steps do not follow each other.
        """
        return entries_after(self.path, step)

    def last(self) -> int:
        """The newest step on record; 0 before the first."""
        lines = self.path.read_bytes().splitlines()
        return _parse(self.path, lines[-1], len(lines)).step if lines else 0

    def drop_after(self, step: int) -> None:
        """Take the steps behind ``step`` off the record; when this returns they are off the disk."""
        os.ftruncate(self._file, sum(size for size, entry in _lines(self.path) if entry.step <= step))
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def is_kept_elsewhere(path: Path) -> bool:
    """Whether a trainer on another machine has this journal open. Then the trainer's SQLite store must be left alone: its
    log is shared memory, which machines do not share, even where they share the disk."""
    if not path.exists() or not _machine_file(path).exists() or _machine_file(path).read_text() == _machine():
        return False
    with path.open("rb") as journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def entries_after(path: Path, step: int) -> list[JournalEntry]:
    """The entries of a journal's steps behind ``step``, in order, without changing the file: its run may be going on.

    Raises:
        JournalError: a line is damaged, or the steps do not follow each other.
    """
    entries: list[JournalEntry] = []
    for number, (_, entry) in enumerate(_lines(path), 1):
        if entry.step <= step:
            continue
        expected = entries[-1].step + 1 if entries else step + 1
        if entry.step != expected:
            raise JournalError(f"{path} line {number}: expected step {expected}, got {entry.step}")
        entries.append(entry)
    return entries


def write_entries(path: Path, entries: list[JournalEntry]) -> None:
    """Make a journal of steps that were recorded elsewhere."""
    path.write_bytes(b"".join(map(_line, entries)))


def _machine() -> str:
    """The same for all processes on one machine until it starts again, in containers too; elsewhere another. Empty where the
    kernel does not tell."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _machine_file(path: Path) -> Path:
    return path.with_suffix(".machine")


def _line(entry: JournalEntry) -> bytes:
    body = entry.model_dump_json()
    return f'{{"xxh3_128": "{_checksum(body)}", "entry": {body}}}\n'.encode()


def _lines(path: Path) -> Iterator[tuple[int, JournalEntry]]:
    """Every whole line's bytes and entry; one without its newline is being written."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.endswith(b"\n"):
                yield len(line), _parse(path, line, number)


def _parse(path: Path, line: bytes, number: int) -> JournalEntry:
    try:
        data: dict[str, Any] = json.loads(line)
        entry = JournalEntry.model_validate(data["entry"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise JournalError(f"{path} line {number} is damaged: {str(error).splitlines()[0]}") from None
    if data.get("xxh3_128") != _checksum(entry.model_dump_json()):
        raise JournalError(f"{path} line {number} is damaged: its checksum does not match")
    return entry


def _checksum(body: str) -> str:
    return xxhash.xxh3_128_hexdigest(body.encode())
