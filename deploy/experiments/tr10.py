"""Larger rollout groups help, then saturate (OneRec technical report, table 7)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Claim
from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Say
from deploy.experiments.reinforcement import REINFORCEMENT, Arm
from deploy.experiments.tr09 import ALONE
from deploy.experiments.trials import RESAMPLES, Design, ExperimentResult, Trials, found, higher, run_trials

NAME = "tr10"
SIZES = (16, 64, 256)
ARMS = (ALONE, *(Arm(name=f"G={size}", rl=REINFORCEMENT.model_copy(update={"group_size": size})) for size in SIZES))
PAPER = {"vtr with groups of 0, 128, 512, 2048": [0.2198, 0.2303, 0.2350, 0.2352]}
FIGURE = "reward@16"


def run(cache: Path, on_progress: Say) -> ExperimentResult:
    """Four arms, three seeds; hours on two cores after the starts."""
    return assess(run_trials(Design(), ARMS, SEEDS, cache, on_progress), Design())


def assess(trials: Trials, design: Design) -> ExperimentResult:
    """What the arms, smallest group first, come to."""
    names = [arm.name for arm in ARMS]
    claims = [
        higher(f"{larger} gives a higher {FIGURE} than {smaller}", trials[larger], trials[smaller], FIGURE)
        for smaller, larger in pairwise(names)
    ]
    return found(NAME, "OneRec technical report, table 7", PAPER, [*claims, _saturates(trials, names)], trials, design)


def plot(axes: Any, result: ExperimentResult) -> bool:
    """The true reward over the group's size, every seed."""
    names = [arm.name for arm in ARMS]
    for seed in range(len(SEEDS)):
        axes.plot(names, [result.figures[FIGURE][name][seed] for name in names], marker="o", label=f"seed {seed}")
    axes.set(title="Larger groups", xlabel="candidates of a group", ylabel=f"true {FIGURE}")
    axes.legend()
    return True


def _saturates(trials: Trials, names: list[str]) -> Claim:
    """The last step's gain is, at the upper end of its interval, less than half of the whole gain."""
    first, before, last = (np.mean([one.users[FIGURE] for one in trials[name]], 0) for name in (names[0], *names[-2:]))
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(last), (RESAMPLES, len(last)))
    upper = float(np.quantile((last - before)[draws].mean(1), 0.975))
    whole = float((last - first).mean())
    return Claim(
        claim=f"the step to {names[-1]} is less than half of the whole gain",
        holds=upper < 0.5 * whole,
        figures={"upper end of the last step's 95 % interval": upper, "whole gain": whole},
    )
