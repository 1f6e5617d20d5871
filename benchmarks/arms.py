"""Runs the arms of a comparison, each with every seed, and keeps what is finished so that an interrupted run goes on.

As many at a time as there are cores, in processes of one thread each. An arm's figures are one line of ``NAME.jsonl`` in
the cache folder, written when it has finished; they count for a later run if plan and arm are the same.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from benchmarks.harness import commit
from benchmarks.simulated_sessions import Arm, Plan, Say, Sessions, judge, make, read, train
from common.policy import build_policy
from common.policy.audit import nominal_size
from common.settings import Section
from deploy.local.leash import tie
from rollout.evaluation import paired_bootstrap

SEEDS = (0, 1, 2)
POINTS = 50
"""Of a stored curve: means over as many equal stretches of the steps."""
RESAMPLES = 1000


class Outcome(Section):
    """One arm with one seed."""

    key: str
    """Digest of plan and arm."""
    arm: str
    seed: int
    size: int
    """Parameters without the id tables."""
    loss_per_level: list[float]
    """Held-out, nats per target."""
    users: list[float]
    """Held-out loss (sum of the levels) of every user, in the same order for all arms of a plan."""
    curve: list[float]
    """Training loss (sum of the levels), `POINTS` means."""
    violation: list[float]
    """Worst mixture's violation of a batch, `POINTS` means; empty without mixtures."""
    held_out_violation: float | None
    seconds: float
    commit: str

    @property
    def loss(self) -> float:
        """Held-out loss, sum of the levels (the OneRec technical report's scale)."""
        return sum(self.loss_per_level)

    def figures(self) -> dict[str, Any]:
        """What a result shows of it."""
        return {"loss": self.loss, **self.model_dump(exclude={"key", "users", "curve", "violation"})}


Outcomes = dict[str, list[Outcome]]
"""By arm, one per seed in the order of the seeds."""


def run_arms(
    name: str,
    plan: Plan,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    cache: Path,
    on_progress: Say,
    workers: int | None = None,
) -> Outcomes:
    """Train and judge every arm with every seed; what ``cache`` has of them is not done again.

    ``workers`` processes (None: one per core); 1 stays in this process, otherwise ``on_progress`` must be a function of a
    module.
    """
    folder = make(plan, cache, on_progress)
    kept = Kept(cache / f"{name}.jsonl")
    missing = [(arm, seed) for seed in seeds for arm in arms if kept.get(plan, arm, seed) is None]
    on_progress(f"{len(missing)} of {len(arms) * len(seeds)} runs to do; finished ones are kept in {kept.path}")
    for outcome in _finished(partial(run_one, plan, folder, on_progress), missing, workers):
        kept.add(outcome)
        on_progress(f"{outcome.arm}, seed {outcome.seed}: held-out loss {outcome.loss:.4f}, {outcome.seconds / 60:.1f} min")
    return {arm.name: [kept.of(plan, arm, seed) for seed in seeds] for arm in arms}


def run_one(plan: Plan, folder: Path, on_progress: Say, arm: Arm, seed: int) -> Outcome:
    """Train and judge one arm on the sessions in ``folder``."""
    sessions = _sessions(plan, folder)
    began = time.monotonic()
    policy, course = train(arm, seed, plan, sessions, on_progress)
    held_out = judge(policy, sessions)
    return Outcome(
        key=_key(plan, arm),
        arm=arm.name,
        seed=seed,
        size=nominal_size(policy),
        loss_per_level=held_out.loss.tolist(),
        users=held_out.users.round(5).tolist(),
        curve=_means(course.loss),
        violation=_means(course.violation),
        held_out_violation=held_out.violation,
        seconds=time.monotonic() - began,
        commit=commit(),
    )


class Kept:
    """The finished arms in a file of JSON lines. A line that a crash cut short is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            path.write_bytes(whole)
        found = [Outcome.model_validate_json(line) for line in whole.splitlines()]
        self._by_key = {(outcome.key, outcome.seed): outcome for outcome in found}

    def get(self, plan: Plan, arm: Arm, seed: int) -> Outcome | None:
        """What is there of an arm and seed under this very plan."""
        return self._by_key.get((_key(plan, arm), seed))

    def of(self, plan: Plan, arm: Arm, seed: int) -> Outcome:
        """What must be there."""
        return self._by_key[_key(plan, arm), seed]

    def add(self, outcome: Outcome) -> None:
        """Keep one more, on disk when this returns."""
        with self.path.open("a") as file:
            file.write(outcome.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._by_key[outcome.key, outcome.seed] = outcome


def size_of(arm: Arm) -> int:
    """Parameters without the id tables, for rules that need them before training."""
    with torch.device("meta"):
        return nominal_size(build_policy(arm.policy))


def lower_loss(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> dict[str, Any]:
    """Same-seed differences of the held-out loss, ours minus theirs, and the paired user bootstrap of the seeds' mean.

    Three seeds alone cannot reach p < .05 in a sign test, and a bootstrap of users knows no noise of training: ``holds`` if
    all differences are negative and p < .05.
    """
    differences = [one.loss - other.loss for one, other in zip(ours, theirs, strict=True)]
    means = [np.mean([outcome.users for outcome in side], 0) for side in (theirs, ours)]
    p = paired_bootstrap(means[0], means[1], RESAMPLES, seed=0)
    return {"differences": differences, "p": p, "holds": max(differences) < 0 and p < 0.05}


def mean_loss(outcomes: Sequence[Outcome]) -> float:
    """Held-out loss, mean over the seeds."""
    return fmean(outcome.loss for outcome in outcomes)


def spread(values: Iterable[float]) -> float:
    """Largest minus smallest."""
    ordered = sorted(values)
    return ordered[-1] - ordered[0]


def _finished(run: partial[Outcome], todo: list[tuple[Arm, int]], workers: int | None) -> Iterator[Outcome]:
    workers = min(workers or len(os.sched_getaffinity(0)), len(todo))
    if workers <= 1:
        yield from (run(arm, seed) for arm, seed in todo)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, _begin, (os.getpid(),)) as pool:
        for future in as_completed([pool.submit(run, arm, seed) for arm, seed in todo]):
            yield future.result()


def _begin(parent: int) -> None:
    tie(parent)
    torch.set_num_threads(1)


@lru_cache(maxsize=1)
def _sessions(plan: Plan, folder: Path) -> Sessions:
    return read(plan, folder)


def _key(plan: Plan, arm: Arm) -> str:
    told = json.dumps([plan.model_dump(), arm.model_dump()], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _means(values: list[float]) -> list[float]:
    stretches = np.array_split(values, min(POINTS, len(values))) if values else []
    return [round(float(part.mean()), 4) for part in stretches]
