"""What reinforcement gains shrinks with the beam's width: a wide beam finds good items anyway (OneRec report, table 6)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Say
from deploy.experiments.reinforcement import Arm
from deploy.experiments.trials import Design, ExperimentResult, Trials, found, higher, rises_more, run_trials

NAME = "tr09"
ALONE, REINFORCED = ARMS = (Arm(name="fine-tuning alone", reinforced=False), Arm(name="G=64"))
PAPER = {"vtr at 32, 128, 512 items": {"alone": [0.1978, 0.2239, 0.2444], "reinforced": [0.2138, 0.2387, 0.2494]}}


def run(cache: Path, on_progress: Say) -> ExperimentResult:
    """Two arms, three seeds; about an hour on two cores after the starts."""
    return assess(run_trials(Design(), ARMS, SEEDS, cache, on_progress), Design())


def assess(trials: Trials, design: Design) -> ExperimentResult:
    """What the two arms come to."""
    widths = design.judging.widths
    ours, theirs = trials[REINFORCED.name], trials[ALONE.name]
    claims = [higher(f"reinforcement raises Pass@{k} of the true reward", ours, theirs, f"reward@{k}") for k in widths]
    claims += [
        rises_more(f"it raises Pass@{narrow} by more than Pass@{wide}", ours, theirs, f"reward@{narrow}", f"reward@{wide}")
        for narrow, wide in pairwise(widths)
    ]
    return found(NAME, "OneRec technical report, table 6", PAPER, claims, trials, design)


def plot(axes: Any, result: ExperimentResult) -> bool:
    """The gain of every seed over the width."""
    widths = result.design["judging"]["widths"]
    for seed in range(len(SEEDS)):
        of = result.figures
        gains = [100 * (of[f"reward@{k}"][REINFORCED.name][seed] / of[f"reward@{k}"][ALONE.name][seed] - 1) for k in widths]
        axes.plot(widths, gains, marker="o", label=f"seed {seed}")
    axes.set(title="Gain by reinforcement", xlabel="beam width", ylabel="Pass@K of the true reward, %")
    axes.set_xscale("log", base=2)
    axes.legend()
    return True
