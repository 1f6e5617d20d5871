"""With reinforcement the loop ends at a higher true reward than without, at equal steps, and no reward is hacked.

Rollouts are scored by a preference model of one half of the users; a second one, of the other half and another seed, must
agree in sign. The list is ten items of a constrained beam.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Say
from deploy.experiments.tr09 import ALONE, ARMS, REINFORCED
from deploy.experiments.trials import Design, ExperimentResult, Trials, bars, found, higher, run_trials

NAME = "gain"


def run(cache: Path, on_progress: Say) -> ExperimentResult:
    """Two arms, three seeds, those of tr09; about an hour on two cores after the starts."""
    return assess(run_trials(Design(), ARMS, SEEDS, cache, on_progress), Design())


def assess(trials: Trials, design: Design) -> ExperimentResult:
    """What the two arms come to."""
    ours, theirs = trials[REINFORCED.name], trials[ALONE.name]
    claims = [
        higher("the true reward of a list is higher", ours, theirs, "list_reward"),
        higher("the model that scored the rollouts says so, too", ours, theirs, "list_learned"),
        higher("and so does one that did not", ours, theirs, "list_evaluator"),
    ]
    return found(NAME, "OneRec technical report, section 4.3", {}, claims, trials, design)


def plot(axes: Any, result: ExperimentResult) -> bool:
    """The true reward of both, every seed."""
    return bars(axes, result, "list_reward", [arm.name for arm in ARMS], "With reinforcement and without")
