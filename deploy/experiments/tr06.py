"""Pass@K rises with the beam's width: every true figure, over separate beam searches (OneRec technical report, table 4)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Say
from deploy.experiments.trials import START, Design, ExperimentResult, Judging, Trials, found, higher, run_trials

NAME = "tr06"
KINDS = ("reward", "play", "like", "follow", "comment")
WIDTHS = [8, 64, 512]
DESIGN = Design(judging=Judging(widths=WIDTHS))
PAPER = {
    "Pass@8, 64, 512, 1024": {
        "lvtr": [0.3675, 0.4927, 0.5351, 0.5443],
        "vtr": [0.9444, 0.9462, 0.9513, 0.9530],
        "ltr": [0.0278, 0.0346, 0.0425, 0.0452],
        "wtr": [0.0114, 0.0138, 0.0182, 0.0197],
        "cmtr": [0.0350, 0.0566, 0.0809, 0.0891],
        "P-Score": [0.0811, 0.2051, 0.3375, 0.3859],
    }
}


def run(cache: Path, on_progress: Say) -> ExperimentResult:
    """Fine-tunes one policy per seed; about half an hour on two cores."""
    return assess(run_trials(DESIGN, [], SEEDS, cache, on_progress), DESIGN)


def assess(trials: Trials, design: Design) -> ExperimentResult:
    """What the starts come to."""
    claims = [
        higher(f"Pass@{b} of {kind} is above Pass@{a}", trials[START], trials[START], f"{kind}@{b}", f"{kind}@{a}")
        for kind in KINDS
        for a, b in pairwise(design.judging.widths)
    ]
    return found(NAME, "OneRec technical report, table 4", PAPER, claims, trials, design)


def plot(axes: Any, result: ExperimentResult) -> bool:
    """Every figure over the beam's width, relative to the narrowest."""
    widths = result.design["judging"]["widths"]
    for k, kind in enumerate(KINDS):
        for seed in range(len(SEEDS)):
            values = [result.figures[f"{kind}@{width}"][START][seed] for width in widths]
            line = [value / values[0] for value in values]
            axes.plot(widths, line, marker="o", color=f"C{k}", label=kind if seed == 0 else None)
    axes.set(title="Best of a beam", xlabel="beam width", ylabel=f"Pass@K over Pass@{widths[0]}")
    axes.set_xscale("log", base=2)
    axes.legend()
    return True
