"""A bundle: all it takes to train a recorded interval again, without the run and without a broker.

    bundle.json               which interval of which run, what computed it, size and checksum of every file
    settings.json             the run's resolved settings (no secrets)
    checkpoints/BEGIN, END    where the interval starts, and what it is to come to
    history.sqlite            the histories as of the start, of the users that the interval is about
    journal.jsonl             what entered each step
    sessions.jsonl.gz, rollout-groups.jsonl.gz     the records, with the positions they had (`common.record_file`)
    index/                    the item index snapshots that the steps used
    trainer_stats.jsonl       what the run measured in these steps

A folder, because a checkpoint, a store and snapshots are read in place. It is filled beside its place and renamed into it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from common.endpoints import Endpoints
from common.history import Ranges, copy_as_of
from common.item_index import snapshot_path
from common.item_index import versions as index_versions
from common.log_interval import records_between
from common.messages import Session, decode
from common.record_file import RecordFileHeader, write_records
from common.settings import Settings, load_settings
from common.stream import Record, log_identity, partition_of, topic_name
from trainer.checkpoint import Checkpoint, committed, load
from trainer.journal import JournalEntry, entries_after, is_kept_elsewhere, write_entries
from trainer.resume import GROUPS, SESSIONS

MANIFEST, STATISTICS = "bundle.json", "trainer_stats.jsonl"
READ_BYTES = 1 << 20
Copy = Callable[[str, str], object]


class BundleError(ValueError):
    """The interval cannot be recorded or read: names what is missing, cut or altered."""


class FileSum(BaseModel):
    """What a file must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nbytes: int
    xxh3_128: str


class BundleManifest(BaseModel):
    """What a bundle holds. Machine, torch build and threads are those that computed the interval's end."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["onerec-bundle"] = "onerec-bundle"
    version: Literal[1] = 1
    run: str
    prefix: str
    first: int
    """Step of the checkpoint that it starts from."""
    last: int
    """Step of the checkpoint that it ends with."""
    sessions: int
    groups: int
    commit: str
    """The sources that wrote the bundle."""
    machine: str
    torch: str
    threads: int
    files: dict[str, FileSum]


@dataclass(frozen=True)
class Bundle:
    """A whole and intact bundle. Open it with `Bundle.open`."""

    path: Path
    manifest: BundleManifest

    @staticmethod
    def open(path: Path) -> Bundle:
        """Verify every file of a bundle.

        Raises:
            BundleError: it is none, or a file is missing, cut or altered (named).
        """
        try:
            manifest = BundleManifest.model_validate_json((path / MANIFEST).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise BundleError(f"{path} is not a bundle: {MANIFEST} is missing") from None
        except ValidationError:
            raise BundleError(f"{path / MANIFEST} is damaged, or of a newer version") from None
        for name, expected in manifest.files.items():
            if not (path / name).is_file():
                raise BundleError(f"{path / name} is missing")
            if (found := _sum(path / name)) != expected:
                raise BundleError(
                    f"{path / name} is cut or altered: it has {found.nbytes:,} bytes and checksum {found.xxh3_128}, "
                    f"recorded were {expected.nbytes:,} and {expected.xxh3_128}"
                )
        return Bundle(path, manifest)


def write_bundle(
    run: Path,
    path: Path,
    first: int | None = None,
    last: int | None = None,
    commit: str = "",
    copy: Copy = shutil.copy2,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Record the steps after checkpoint ``first`` up to checkpoint ``last`` (None: the oldest and the newest kept).

    The run may go on meanwhile. ``commit`` names the sources; ``copy`` brings files that never change into the bundle.

    Raises:
        BundleError: the place is taken, the run has several ranks, a checkpoint is not there, or the steps between are not
            on record.
        HistoryError: the history store is behind the first checkpoint.
        StreamError: the broker no longer has the interval.
    """
    if path.exists():
        raise BundleError(f"{path} exists already: choose another name, or remove it")
    settings = load_settings(run / "settings.json")
    if settings.trainer.ranks > 1:
        raise BundleError(
            f"trainer.ranks of {run} is {settings.trainer.ranks}; the interval of a run of one rank can be recorded"
        )
    begin, end = _interval(run, first, last)
    entries = _entries(run, begin, end)
    building = path.with_name(f".{path.name}.{os.getpid()}")
    building.mkdir(mode=0o700, parents=True)
    try:
        manifest = _Writer(run, building, settings, copy, on_progress).fill(begin, end, entries, commit)
        building.rename(path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Bundle(path, manifest)


class _Writer:
    """Fills a bundle's folder."""

    def __init__(self, run: Path, into: Path, settings: Settings, copy: Copy, on_progress: Callable[[str], None]) -> None:
        self.run, self.into, self.settings, self.copy, self.on_progress = run, into, settings, copy, on_progress
        self.endpoints = Endpoints.read(run)

    def fill(self, begin: int, end: int, entries: list[JournalEntry], commit: str) -> BundleManifest:
        """Everything, the manifest last."""
        for step in (begin, end):  # first: a run that goes on drops old ones
            self._folder(f"checkpoints/{step:08d}")
        start, goal = load(self.into / "checkpoints", begin), load(self.into / "checkpoints", end)
        shutil.copy2(self.run / "settings.json", self.into)
        write_entries(self.into / "journal.jsonl", entries)
        self._indexes(start, entries)
        self._statistics(begin, end)
        sessions = self._sessions(start, goal)
        groups = self._records(GROUPS, start.state.groups, goal.state.groups, goal, iter)
        identity = goal.state.identity
        manifest = BundleManifest(
            run=identity.run,
            prefix=identity.prefix,
            first=begin,
            last=end,
            sessions=sessions,
            groups=groups,
            commit=commit,
            machine=identity.machine,
            torch=identity.torch,
            threads=identity.threads,
            files={str(file.relative_to(self.into)): _sum(file) for file in sorted(self.into.rglob("*")) if file.is_file()},
        )
        (self.into / MANIFEST).write_text(manifest.model_dump_json(indent=1))
        return manifest

    def _sessions(self, start: Checkpoint, goal: Checkpoint) -> int:
        """The sessions, and the histories of their users (and of those whose groups are awaited) as of the start."""
        users = {asked.user_id for _, _, asked in start.state.frontier.outstanding}

        def noted(records: Iterator[Record]) -> Iterator[Record]:
            for record in records:
                session = decode(Session, record.value)
                if isinstance(session, Session):
                    users.add(session.user_id)
                yield record

        count = self._records(SESSIONS, start.state.sessions, goal.state.sessions, goal, noted)
        if is_kept_elsewhere(self.run / "journal.jsonl"):
            raise BundleError(f"the trainer of {self.run} runs on another machine: record the interval there")
        ends, partitions = start.state.sessions, self.settings.stream.partitions
        bounds = {user: ends[partition_of(user, partitions)] for user in users}
        copy_as_of(self.run / "history.sqlite", self.into / "history.sqlite", ends, bounds)
        return count

    def _records(
        self,
        name: str,
        begins: dict[int, int],
        ends: dict[int, int],
        goal: Checkpoint,
        through: Callable[[Iterator[Record]], Iterator[Record]],
    ) -> int:
        """The records of a topic between two checkpoints."""
        topic, timeout_s = topic_name(self.endpoints.prefix, name), self.settings.stream.timeout_s
        log = log_identity(self.endpoints.kafka, topic, timeout_s)
        if log != goal.state.identity.logs[name]:
            raise BundleError(f"{topic} at {self.endpoints.kafka} is not the log of {self.run}: it was recreated since")
        ranges: Ranges = {partition: (first, ends[partition]) for partition, first in begins.items()}
        total = sum(end - first for first, end in ranges.values())
        header = RecordFileHeader(log=log, topic=topic, partitions=goal.state.identity.partitions[name], ranges=ranges)
        records = through(records_between(self.endpoints.kafka, topic, ranges, timeout_s))
        return write_records(
            self.into / f"{name}.jsonl.gz",
            header,
            records,
            lambda done: self.on_progress(f"recording {name}: {done:,} of {total:,}"),
        )

    def _indexes(self, start: Checkpoint, entries: list[JournalEntry]) -> None:
        oldest, newest = min(start.state.indexes), max(entry.index_version for entry in entries)
        for version in index_versions(self.run / "index"):
            if oldest <= version <= newest:
                self._folder(str(snapshot_path(Path("index"), version)))

    def _statistics(self, begin: int, end: int) -> None:
        """The run's lines of these steps."""
        with (self.run / STATISTICS).open("rb") as lines, (self.into / STATISTICS).open("wb") as chosen:
            chosen.writelines(
                line for line in lines if line.endswith(b"\n") and begin < json.loads(line).get("step", 0) <= end
            )

    def _folder(self, name: str) -> None:
        shutil.copytree(self.run / name, self.into / name, copy_function=self.copy)


def _interval(run: Path, first: int | None, last: int | None) -> tuple[int, int]:
    kept = committed(run / "checkpoints")
    if not kept:
        raise BundleError(f"{run} has no committed checkpoint")
    begin, end = kept[0] if first is None else first, kept[-1] if last is None else last
    for name, step in (("from", begin), ("to", end)):
        if step not in kept:
            raise BundleError(f"{name} must be one of the checkpoints kept, {', '.join(map(str, kept))}, got {step}")
    if begin >= end:
        raise BundleError(f"from must be below to, got {begin} and {end}")
    return begin, end


def _entries(run: Path, begin: int, end: int) -> list[JournalEntry]:
    entries = entries_after(run / "journal.jsonl", begin)[: end - begin]
    if len(entries) < end - begin:
        raise BundleError(f"the journal of {run} ends at step {begin + len(entries)}, before checkpoint {end}")
    return entries


def _sum(path: Path) -> FileSum:
    digest, size = xxhash.xxh3_128(), 0
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            digest.update(data)
            size += len(data)
    return FileSum(nbytes=size, xxh3_128=digest.hexdigest())
