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
    """The whole is a gain, the last step no loss and, at the upper end of its interval, less than half of the whole."""
    first, before, last = (trials[name] for name in (names[0], *names[-2:]))
    whole, loss = higher("a gain", last, first, FIGURE), higher("a loss", before, last, FIGURE)
    step = np.mean([one.users[FIGURE] for one in last], 0) - np.mean([one.users[FIGURE] for one in before], 0)
    draws = np.random.default_rng(0).integers(0, len(step), (RESAMPLES, len(step)))
    upper = float(np.quantile(step[draws].mean(1), 0.975))
    gain = float(np.mean(whole.figures["differences"]))
    return Claim(
        claim=f"{names[-1]} gains over {names[0]}, and the step to it is no loss and less than half of that",
        holds=whole.holds and not loss.holds and upper < 0.5 * gain,
        figures={
            "upper end of the last step's 95 % interval": upper,
            "whole gain": gain,
            "whole gain of each seed": whole.figures["differences"],
            "p of no gain": whole.figures["p"],
            "the last step's loss of each seed": loss.figures["differences"],
            "p of no loss": loss.figures["p"],
        },
    )
