"""The arms of a comparison by next-token loss: policies trained in one pass on the same simulated sessions.

Finished ones are kept in ``NAME.jsonl`` in the cache folder; they count for a later run if plan and arm are the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from benchmarks.harness import commit
from benchmarks.runs import Kept, KeptRun, all_runs, key_of
from benchmarks.simulated_sessions import Arm, Plan, Say, Sessions, judge, make, read, train
from common.policy import build_policy
from common.policy.audit import nominal_size
from rollout.evaluation import paired_bootstrap

POINTS = 50
"""Of a stored curve: means over as many equal stretches of the steps."""
RESAMPLES = 1000


class Outcome(KeptRun):
    """One arm with one seed."""

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
    return all_runs(
        Kept(cache / f"{name}.jsonl", Outcome),
        arms,
        seeds,
        partial(key_of, plan),
        partial(run_one, plan, folder, on_progress),
        lambda one: f"held-out loss {one.loss:.4f}",
        on_progress,
        workers,
    )


def run_one(plan: Plan, folder: Path, on_progress: Say, arm: Arm, seed: int) -> Outcome:
    """Train and judge one arm on the sessions in ``folder``."""
    sessions = _sessions(plan, folder)
    began = time.monotonic()
    policy, course = train(arm, seed, plan, sessions, on_progress)
    held_out = judge(policy, sessions)
    return Outcome(
        key=key_of(plan, arm),
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


@lru_cache(maxsize=1)
def _sessions(plan: Plan, folder: Path) -> Sessions:
    return read(plan, folder)


def _means(values: list[float]) -> list[float]:
    stretches = np.array_split(values, min(POINTS, len(values))) if values else []
    return [round(float(part.mean()), 4) for part in stretches]
