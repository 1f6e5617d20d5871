"""Feedback on the policy's own lists teaches more than feedback on what others showed (OneRec-V2, table 6).

Both arms learn by GBPO from as many lists: those of the logged sessions alone, or half of the sessions' users get the
policy's list in place of the logged one, whose generation probabilities are known, and answer it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Say
from deploy.experiments.tr09 import ALONE
from deploy.experiments.tr18 import AWARE
from deploy.experiments.trials import Design, ExperimentResult, Trials, bars, found, higher, run_trials

NAME = "tr19"
LOGGED = AWARE
OWN = AWARE.model_copy(update={"name": "with own traffic", "own_traffic": 0.5})
ARMS = (ALONE, LOGGED, OWN)
FIGURE = "list_reward"
PAPER = {
    "percent over OneRec-V1, without and with own traffic": {
        "stay time": [0.165, 0.227],
        "watch time": [1.054, 0.648],
        "video view": [-0.901, 0.716],
        "like": [-0.186, 2.897],
        "follow": [2.274, 3.661],
        "comment": [-4.982, 6.392],
        "collect": [-0.817, 1.232],
        "forward": [-2.162, 3.426],
    }
}


def run(cache: Path, on_progress: Say) -> ExperimentResult:
    """Three arms, three seeds, two of them those of tr18; about an hour on two cores after the starts."""
    return assess(run_trials(Design(), ARMS, SEEDS, cache, on_progress), Design())


def assess(trials: Trials, design: Design) -> ExperimentResult:
    """What the arms come to."""
    alone, logged, own = (trials[arm.name] for arm in ARMS)
    claims = [
        higher("with own traffic the true reward of a list is higher than with logged feedback alone", own, logged, FIGURE),
        higher("and than without feedback", own, alone, FIGURE),
    ]
    return found(NAME, "OneRec-V2, table 6", PAPER, claims, trials, design)


def plot(axes: Any, result: ExperimentResult) -> bool:
    """The true reward of the three, every seed."""
    return bars(axes, result, FIGURE, [arm.name for arm in ARMS], "Whose lists the feedback is on")
