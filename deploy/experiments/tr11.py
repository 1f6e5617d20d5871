"""Candidates by beam search teach more than draws from the truncated policy (OneRec technical report, table 8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Say
from deploy.experiments.reinforcement import REINFORCEMENT, Arm
from deploy.experiments.trials import Design, ExperimentResult, Trials, bars, found, higher, run_trials

NAME = "tr11"
BEAM, DRAWS = ARMS = (
    Arm(name="G=64"),
    Arm(name="top-k + top-p", rl=REINFORCEMENT.model_copy(update={"candidates": "sample"})),
)
PAPER = {"vtr": {"top-k + top-p": 0.2131, "beam": 0.2162}}
FIGURE = "reward@16"


def run(cache: Path, on_progress: Say) -> ExperimentResult:
    """Two arms, three seeds; about an hour on two cores after the starts."""
    return assess(run_trials(Design(), ARMS, SEEDS, cache, on_progress), Design())


def assess(trials: Trials, design: Design) -> ExperimentResult:
    """What the two arms come to; their curves say how many of a group's draws differ."""
    claim = higher(f"beam search gives a higher true {FIGURE}", trials[BEAM.name], trials[DRAWS.name], FIGURE)
    return found(NAME, "OneRec technical report, table 8", PAPER, [claim], trials, design)


def plot(axes: Any, result: ExperimentResult) -> bool:
    """The true reward of both, every seed."""
    return bars(axes, result, FIGURE, [arm.name for arm in ARMS], "How candidates are generated")
