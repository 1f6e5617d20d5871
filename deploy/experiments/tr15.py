"""With stale rollouts GRPO's gradients spike where ECPO's stay bounded (OneRec technical report, section on ECPO).

The generator lags up to 2,000 steps behind and rates are five times the usual; norms are those before clipping. Fresh
candidates tell nothing: their ratios are about 1, and both objectives push alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Claim
from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Say
from deploy.experiments.reinforcement import REINFORCEMENT, Arm, Schedule
from deploy.experiments.trials import Design, ExperimentResult, Trials, courses, found, run_trials

NAME = "tr15"
DESIGN = Design(schedule=Schedule(steps=2_500, publish_every=2_000))
STALE = 200
"""Steps since the generator took parameters, from which on candidates are judged."""
ECPO, GRPO = ARMS = tuple(
    Arm(name=objective, rl=REINFORCEMENT.model_copy(update={"objective": objective}), learning_rate_factor=5.0)
    for objective in ("ecpo", "grpo")
)
PAPER = {"gradient norm": {"GRPO": "spikes", "ECPO": "stable"}}


def run(cache: Path, on_progress: Say) -> ExperimentResult:
    """Two arms, three seeds; about an hour on two cores after the starts."""
    return assess(run_trials(DESIGN, ARMS, SEEDS, cache, on_progress), DESIGN)


def assess(trials: Trials, design: Design) -> ExperimentResult:
    """What the two arms come to."""
    curves = {arm.name: [one.curves["gradient_norm"] for one in trials[arm.name]] for arm in ARMS}
    largest = {arm: [max(stale(curve, design.schedule)) for curve in runs] for arm, runs in curves.items()}
    pairs = zip(largest[ECPO.name], largest[GRPO.name], strict=True)
    claim = Claim(
        claim=f"where candidates are at least {STALE} steps old, ECPO's largest norm is below GRPO's with every seed",
        holds=all(ours < theirs for ours, theirs in pairs),
        figures=largest,
    )
    return found(NAME, "OneRec technical report, section 2.4.1", PAPER, [claim], trials, design)


def stale(curve: list[float], schedule: Schedule) -> list[float]:
    """Those values of a curve whose whole stretch of steps had stale candidates."""
    ages = np.array_split(np.arange(schedule.steps) % schedule.publish_every, len(curve))
    return [value for value, age in zip(curve, ages, strict=True) if age.min() >= STALE]


def plot(axes: Any, result: ExperimentResult) -> bool:
    """The largest gradient norm of each stretch, every seed."""
    courses(axes, result, "gradient_norm", [arm.name for arm in ARMS])
    axes.set(title="Gradient norm of reinforcement, before clipping", ylabel="largest of a stretch")
    axes.set_yscale("log")
    return True
