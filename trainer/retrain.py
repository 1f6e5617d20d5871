"""Retraining a recorded interval: the steps between two checkpoints once more, from the log and the journal alone.

In a folder of its own, without publishing, without asking for rollouts and without dead letters; the run that is retrained
stays as it is, and may go on meanwhile. On one machine type, torch build and thread count the parameters come out bit for
bit the same, however often the recorded run was killed.

consumes:     a run folder; the ranges of sessions and rollout-groups (Kafka) that its journal names
produces:     a folder with the interval's checkpoints
waits for:    the broker
unblocked by: its timeout
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.compute import compute_with
from common.item_index import snapshot_path
from common.item_index import versions as index_versions
from common.settings import load_settings
from common.stream import Producer
from trainer.checkpoint import Checkpoint, committed, load
from trainer.journal import Journal, JournalEntry, entries_after
from trainer.loop import Trainer
from trainer.parallel import joined_ranks
from trainer.resume import open_run
from trainer.statistics import Statistics

LINKED = ("settings.json", "endpoints.json", "log")


class RetrainError(ValueError):
    """The interval cannot be retrained: names what is missing."""


@dataclass(frozen=True, slots=True)
class Retrained:
    """The interval's end as recorded, and as retrained."""

    recorded: Checkpoint
    again: Checkpoint

    def differences(self) -> list[str]:
        """Names of the parts that are not bit for bit the same; none is what is promised."""
        names = [] if self.recorded.policy == self.again.policy else ["policy"]
        names += _unequal(self.recorded.trainer, self.again.trainer)
        states = [self.recorded.state, self.again.state]
        return names + [
            name for name in ("sessions", "groups", "counters") if getattr(states[0], name) != getattr(states[1], name)
        ]


class Nowhere(Producer):
    """Keeps to itself what a run would send."""

    def __init__(self) -> None:
        self.acknowledged = {}

    def send(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to close."""


def retrain(
    run: Path,
    into: Path,
    first: int | None = None,
    last: int | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Retrained:
    """Execute the steps after checkpoint ``first`` up to checkpoint ``last`` again (None: the oldest and the newest kept).

    ``on_step`` gets the step and the last one.

    Raises:
        RetrainError: a checkpoint is not there, the steps between are not on record, or ``into`` is taken.
        StreamError: the log no longer has what the journal names.
    """
    compute_with(threads=1)
    settings = load_settings(run / "settings.json")
    if settings.trainer.ranks > 1:
        raise RetrainError(f"trainer.ranks of {run} is {settings.trainer.ranks}; a run of one rank can be retrained")
    begin, end = _interval(run, first, last)
    recorded = load(run / "checkpoints", end)
    _lay_out(run, into, begin, _entries(run, begin, end))
    with ExitStack() as closing:
        opened = open_run(into, settings, closing.enter_context(joined_ranks(timeout_s=60.0)))
        closing.callback(opened.close)
        journal = Journal(into / "journal.jsonl")
        closing.callback(journal.close)
        statistics = closing.enter_context(Statistics(into / "trainer_stats.jsonl", opened.run))
        trainer = Trainer(opened, journal, Nowhere(), None, statistics)
        closing.callback(trainer.commits.close)
        trainer.use_index()
        for entry in trainer.recorded():
            trainer.repeat(entry)
            if on_step:
                on_step(entry.step, end)
        trainer.checkpoint(wait=True)
    return Retrained(recorded, load(into / "checkpoints", end))


def _interval(run: Path, first: int | None, last: int | None) -> tuple[int, int]:
    kept = committed(run / "checkpoints")
    if not kept:
        raise RetrainError(f"{run} has no committed checkpoint")
    begin, end = kept[0] if first is None else first, kept[-1] if last is None else last
    for name, step in (("from", begin), ("to", end)):
        if step not in kept:
            raise RetrainError(f"{name} must be one of the checkpoints kept, {', '.join(map(str, kept))}, got {step}")
    if begin >= end:
        raise RetrainError(f"from must be below to, got {begin} and {end}")
    return begin, end


def _entries(run: Path, begin: int, end: int) -> list[JournalEntry]:
    entries = entries_after(run / "journal.jsonl", begin)[: end - begin]
    if len(entries) < end - begin:
        raise RetrainError(f"the journal of {run} ends at step {begin + len(entries)}, before checkpoint {end}")
    return entries


def _lay_out(run: Path, into: Path, begin: int, entries: list[JournalEntry]) -> None:
    """A run folder that stands at ``begin`` with the interval on record; what never changes is linked."""
    if into.exists() and any(into.iterdir()):
        raise RetrainError(f"{into} is not empty")
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in LINKED:
        (into / name).symlink_to((run / name).resolve())
    (into / "index").mkdir()
    for version in index_versions(run / "index"):
        snapshot_path(into / "index", version).symlink_to(snapshot_path(run / "index", version).resolve())
    start = f"checkpoints/{begin:08d}"
    shutil.copytree(run / start, into / start, copy_function=_linked)
    journal = Journal(into / "journal.jsonl")
    for entry in entries:
        journal.append(entry)
    journal.close()


def _linked(source: str, target: str) -> None:
    """A second name for a file that is never written to again; a copy where the file systems differ."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _unequal(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return sorted(
        name
        for name in one.keys() | other.keys()
        if name not in one or name not in other or not torch.equal(one[name], other[name])
    )
