"""Lists that the reward model chooses from what was generated beat the most probable ones (OneRec report, table 12).

One beam, no reinforcement: either its first items are shown, or those with the highest P-Scores. What the users truly think
decides, and a preference model that chose nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Say
from deploy.experiments.trials import START, Design, ExperimentResult, Trials, found, higher, run_trials

NAME = "tr22"
SELECTED = {"selected": "the mean of like, follow and comment", "p_score": "the P-Score"}
KINDS = ("reward", "like", "follow", "comment", "evaluator")
PAPER = {
    "percent over the cascade, OneRec alone and with selection": {
        "stay time": [0.01, 0.54],
        "watch time": [0.07, 1.98],
        "video view": [1.98, 2.52],
        "like": [-2.00, 2.43],
        "follow": [-2.88, 3.24],
        "comment": [-1.56, 5.27],
        "collect": [-0.61, 2.93],
        "forward": [0.27, 5.90],
    }
}


def run(cache: Path, on_progress: Say) -> ExperimentResult:
    """Judges one fine-tuned policy per seed; about half an hour on two cores, minutes if the starts are there."""
    return assess(run_trials(Design(), [], SEEDS, cache, on_progress), Design())


def assess(trials: Trials, design: Design) -> ExperimentResult:
    """What the starts' two lists come to."""
    runs = trials[START]
    claims = [
        higher(f"selection by {by} raises the {kind} of a list", runs, runs, f"{prefix}_{kind}", f"list_{kind}")
        for prefix, by in SELECTED.items()
        for kind in KINDS
    ]
    return found(NAME, "OneRec technical report, table 12", PAPER, claims, trials, design)


def plot(axes: Any, result: ExperimentResult) -> bool:
    """What selection adds to every figure, every seed."""
    of = result.figures
    for k, (prefix, by) in enumerate(SELECTED.items()):
        for seed in range(len(SEEDS)):
            gains = [100 * (of[f"{prefix}_{kind}"][START][seed] / of[f"list_{kind}"][START][seed] - 1) for kind in KINDS]
            axes.plot(KINDS, gains, marker="o", color=f"C{k}", label=f"by {by}" if seed == 0 else None)
    axes.set(title="Selection by the reward model", ylabel="over the most probable items, %")
    axes.legend()
    return True
