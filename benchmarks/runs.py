"""Runs of a comparison's arms, each with every seed: as many at a time as there are cores, and what is finished is kept.

A run's figures are one line of a file of JSON lines, written when it has finished; they count for a later call if what
decides them is the same, so that an interrupted comparison goes on.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from common.compute import compute_with
from common.settings import Section
from deploy.local.leash import tie

SEEDS = (0, 1, 2)
Say = Callable[[str], None]


class Named(Protocol):
    """An arm."""

    @property
    def name(self) -> str:
        """What it is called in results, once in a comparison."""


class KeptRun(Section):
    """What one arm with one seed came to."""

    key: str
    """Digest of all that decides it beside the seed, see `key_of`."""
    arm: str
    seed: int
    seconds: float
    commit: str


A = TypeVar("A", bound=Named)
R = TypeVar("R", bound=KeptRun)


class Kept(Generic[R]):
    """The finished runs in a file of JSON lines. A line that a crash cut short is dropped."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            path.write_bytes(whole)
        found = [kind.model_validate_json(line) for line in whole.splitlines()]
        self._runs = {(run.key, run.seed): run for run in found}

    def get(self, key: str, seed: int) -> R | None:
        """What is there under a key and seed."""
        return self._runs.get((key, seed))

    def of(self, key: str, seed: int) -> R:
        """What must be there."""
        return self._runs[key, seed]

    def add(self, run: R) -> None:
        """Keep one more, on disk when this returns."""
        with self.path.open("a") as file:
            file.write(run.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._runs[run.key, run.seed] = run


def all_runs(
    kept: Kept[R],
    arms: Sequence[A],
    seeds: Sequence[int],
    key: Callable[[A], str],
    work: Callable[[A, int], R],
    told: Callable[[R], str],
    on_progress: Say,
    workers: int | None = None,
) -> dict[str, list[R]]:
    """Every arm's runs, one per seed in their order; those that are kept are not done again.

    ``told`` is what is said of a finished run. ``workers`` processes of one thread each (None: one per core); 1 stays in
    this process, otherwise ``work`` must pickle, and with it the progress function that it may have.
    """
    missing = [(arm, seed) for seed in seeds for arm in arms if kept.get(key(arm), seed) is None]
    on_progress(f"{len(missing)} of {len(arms) * len(seeds)} runs to do; finished ones are kept in {kept.path}")
    for run in _finished(work, missing, workers):
        kept.add(run)
        on_progress(f"{run.arm}, seed {run.seed}: {told(run)}, {run.seconds / 60:.1f} min")
    return {arm.name: [kept.of(key(arm), seed) for seed in seeds] for arm in arms}


def key_of(*parts: Section) -> str:
    """Digest of what decides a run."""
    told: list[Any] = [part.model_dump() for part in parts]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _finished(work: Callable[[A, int], R], todo: Sequence[tuple[A, int]], workers: int | None) -> Iterator[R]:
    workers = min(workers or len(os.sched_getaffinity(0)), len(todo))
    if workers <= 1:
        yield from (work(arm, seed) for arm, seed in todo)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, _begin, (os.getpid(),)) as pool:
        for future in as_completed([pool.submit(work, arm, seed) for arm, seed in todo]):
            yield future.result()


def _begin(parent: int) -> None:
    tie(parent)
    compute_with(threads=1)
