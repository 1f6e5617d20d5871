"""Candidates of the current policy teach more than those of the one it began as (OneRec technical report, table 9)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Say
from deploy.experiments.reinforcement import Arm
from deploy.experiments.trials import Design, ExperimentResult, Trials, bars, found, higher, run_trials

NAME = "tr12"
CURRENT, FROZEN = ARMS = (Arm(name="G=64"), Arm(name="frozen generator", on_policy=False))
PAPER = {"vtr": {"pre-trained generator": 0.2262, "current policy": 0.2389}}
FIGURE = "reward@16"


def run(cache: Path, on_progress: Say) -> ExperimentResult:
    """Two arms, three seeds; about an hour on two cores after the starts."""
    return assess(run_trials(Design(), ARMS, SEEDS, cache, on_progress), Design())


def assess(trials: Trials, design: Design) -> ExperimentResult:
    """What the two arms come to."""
    claim = higher(f"the current policy gives a higher true {FIGURE}", trials[CURRENT.name], trials[FROZEN.name], FIGURE)
    return found(NAME, "OneRec technical report, table 9", PAPER, [claim], trials, design)


def plot(axes: Any, result: ExperimentResult) -> bool:
    """The true reward of both, every seed."""
    return bars(axes, result, FIGURE, [arm.name for arm in ARMS], "Who generates the candidates")
