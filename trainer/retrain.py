"""Training a recorded interval once more, from its bundle: with no broker, no message queue and no other process.

In a folder of its own, without publishing, without asking for rollouts and without dead letters. On one machine type, torch
build and thread count the parameters come out bit for bit the same, however often the recorded run was killed.

consumes:     a bundle (`trainer.bundle`); or its records from topics that they were put on again
produces:     a folder with the interval's end as checkpoint, and its statistics
waits for:    nothing; or that broker
unblocked by: its timeout
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from common.compute import compute_with
from common.settings import load_settings
from common.stream import Producer
from trainer.bundle import STATISTICS, Bundle, write_bundle
from trainer.checkpoint import Checkpoint, load
from trainer.journal import Journal
from trainer.loop import Trainer
from trainer.parallel import joined_ranks
from trainer.recorded_log import RecordedLog
from trainer.resume import open_run
from trainer.run_log import RunLog
from trainer.statistics import Statistics

OnStep = Callable[[int, int], None]
"""Gets the step and the last one."""


class RetrainError(ValueError):
    """The interval cannot be retrained where it is to be."""


@dataclass(frozen=True, slots=True)
class Retrained:
    """The interval's end as recorded, and as retrained."""

    recorded: Checkpoint
    again: Checkpoint

    def differences(self) -> list[str]:
        """Names of the parts that are not bit for bit the same; none is what is promised."""
        names = _unequal(self.recorded.trainer, self.again.trainer)
        blobs = [bytes(one.policy) for one in (self.recorded, self.again)]
        if blobs[0] != blobs[1]:
            names = [*(f"policy.{name}" for name in _unequal(*map(safetensors.torch.load, blobs))), *names]
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
    run: Path, into: Path, first: int | None = None, last: int | None = None, on_step: OnStep = lambda *_: None
) -> Retrained:
    """Execute a run's steps between two kept checkpoints again; the run stays as it is, and may go on meanwhile.

    Raises:
        RetrainError: ``into`` is taken.
        ValueError, StreamError: as `trainer.bundle.write_bundle`.
    """
    check_free(into)
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{into.name}-", dir=into.parent) as aside:
        return replay(write_bundle(run, Path(aside) / "bundle", first, last, copy=linked), into, on_step)


def replay(bundle: Bundle, into: Path, on_step: OnStep = lambda *_: None, run_log: RunLog | None = None) -> Retrained:
    """Train a bundle's interval in a new folder; the records come from the bundle, or from ``run_log``.

    Raises:
        RetrainError: ``into`` is taken.
        ValueError: what is in the bundle does not belong together.
        StreamError: ``run_log`` does not have the interval.
    """
    compute_with(threads=1)
    check_free(into)
    _lay_out(bundle, into)
    settings, end = load_settings(into / "settings.json"), bundle.manifest.last
    with ExitStack() as closing:
        ranks = closing.enter_context(joined_ranks(timeout_s=60.0))
        opened = open_run(into, settings, ranks, run_log or RecordedLog(bundle.path))
        closing.callback(opened.close)
        journal = Journal(into / "journal.jsonl")
        closing.callback(journal.close)
        statistics = closing.enter_context(Statistics(into / STATISTICS, opened.run))
        trainer = Trainer(opened, journal, Nowhere(), None, statistics)
        closing.callback(trainer.close)
        for entry in trainer.recorded():
            trainer.repeat(entry)
            on_step(entry.step, end)
        trainer.checkpoint(wait=True)
    return Retrained(load(bundle.path / "checkpoints", end), load(into / "checkpoints", end))


def linked(source: str, target: str) -> None:
    """A second name for a file that is never written to again; a copy where the file systems differ."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def check_free(into: Path) -> None:
    """Raises RetrainError where there is something already."""
    if into.exists() and any(into.iterdir()):
        raise RetrainError(f"{into} is not empty")


def _lay_out(bundle: Bundle, into: Path) -> None:
    """A run folder that stands at the interval's beginning with the interval on record."""
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("settings.json", "journal.jsonl", "history.sqlite"):
        shutil.copy2(bundle.path / name, into)
    start = f"checkpoints/{bundle.manifest.first:08d}"
    for name in (start, "index"):
        shutil.copytree(bundle.path / name, into / name, copy_function=linked)
    endpoints = {"run": bundle.manifest.run, "prefix": bundle.manifest.prefix, "kafka": "", "reward": ""}
    (into / "endpoints.json").write_text(json.dumps(endpoints))


def _unequal(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return sorted(
        name
        for name in one.keys() | other.keys()
        if name not in one or name not in other or not torch.equal(one[name], other[name])
    )
