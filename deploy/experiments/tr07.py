"""Semantic IDs as input do as well as item ids, which need a table row for every item (OneRec technical report, table 5).

Two policies that differ in how they read a history's items alone, each fine-tuned by itself at an equal number of steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness import Claim
from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Say, compact
from deploy.experiments.reinforcement import Start
from deploy.experiments.trials import START, Design, ExperimentResult, Trials, bars, found, run_trials

NAME = "tr07"
ITEM_IDS, SEMANTIC_IDS = "item ids", "semantic IDs"
DESIGNS = {
    ITEM_IDS: Design(start=Start(policy=compact(128, feature_width=16, vid_input=True, sid_input=False))),
    SEMANTIC_IDS: Design(start=Start(policy=compact(128, feature_width=16, vid_input=False, sid_input=True))),
}
FIGURES = ("reward@16", "reward@64", "list_reward")
MARGIN = 0.01
PAPER = {
    "item ids, semantic IDs": {
        "lvtr": [0.4447, 0.4467],
        "vtr": [0.8725, 0.8726],
        "ltr": [0.0336, 0.0336],
        "wtr": [0.0104, 0.0105],
        "cmtr": [0.0565, 0.0573],
        "P-Score": [0.0371, 0.0378],
    }
}


def run(cache: Path, on_progress: Say) -> ExperimentResult:
    """Two inputs, three seeds, no reinforcement; an hour and a half on two cores."""
    trials = {name: run_trials(design, [], SEEDS, cache, on_progress)[START] for name, design in DESIGNS.items()}
    return assess(trials, DESIGNS[SEMANTIC_IDS])


def assess(trials: Trials, design: Design) -> ExperimentResult:
    """What the two inputs come to."""
    claims = [_no_worse(trials, figure) for figure in FIGURES]
    return found(NAME, "OneRec technical report, table 5", PAPER, claims, trials, design)


def plot(axes: Any, result: ExperimentResult) -> bool:
    """The true reward of both, every seed."""
    return bars(axes, result, "reward@64", [ITEM_IDS, SEMANTIC_IDS], "What a history's items are read as")


def _no_worse(trials: Trials, figure: str) -> Claim:
    """With every seed; seeds pair what was initialised alike, as far as it is the same."""
    ratios = [a.mean(figure) / b.mean(figure) for a, b in zip(trials[SEMANTIC_IDS], trials[ITEM_IDS], strict=True)]
    return Claim(
        claim=f"by semantic IDs the true {figure} is at most {MARGIN:.0%} below that by item ids",
        holds=min(ratios) >= 1 - MARGIN,
        figures={"ratios": ratios},
    )
