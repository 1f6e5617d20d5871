"""Reinforcement alone costs legality; rewarding random legal candidates restores it (OneRec technical report, figure 12).

Free beam searches, less than 1 % of the semantic IDs are legal, and the preference term weighs so much that its negatives
press hard. ``top`` rewards the most probable candidates in place of random ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Claim
from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Say
from deploy.experiments.reinforcement import REINFORCEMENT, Arm
from deploy.experiments.trials import START, Design, ExperimentResult, Trial, Trials, courses, found, higher, run_trials

NAME = "tr13"
FIGURE = "legality"
PRESSING = {"lambda_preference": 3.0, "format_samples": 3}
PAPER = {"legality": {"without the format reward": "below .5", "random": "rises to about .95", "top": "rises, then falls"}}


def _arm(name: str, **changes: object) -> Arm:
    return Arm(name=name, rl=REINFORCEMENT.model_copy(update=PRESSING | changes))


ALONE, RANDOM, TOP = ARMS = (
    _arm("ECPO alone"),
    _arm("with random", lambda_format=1.0),
    _arm("with top", lambda_format=1.0, format_select="top"),
)


def run(cache: Path, on_progress: Say) -> ExperimentResult:
    """Three arms, three seeds; about an hour and a half on two cores after the starts."""
    return assess(run_trials(Design(), ARMS, SEEDS, cache, on_progress), Design())


def assess(trials: Trials, design: Design) -> ExperimentResult:
    """What the arms come to."""
    start, alone, random = (trials[name] for name in (START, ALONE.name, RANDOM.name))
    claims = [
        higher("ECPO alone lowers legality", start, alone, FIGURE),
        _at_least("ECPO alone lowers it by at least .05", 0.05, trials, START, ALONE.name),
        _at_least("random legal candidates keep it at least .10 above ECPO alone", 0.10, trials, RANDOM.name, ALONE.name),
        _at_least("and no lower than it began", 0.0, trials, RANDOM.name, START),
        higher("random ones keep it higher than the most probable ones", random, trials[TOP.name], FIGURE),
        _selected_above_all(trials[TOP.name]),
    ]
    return found(NAME, "OneRec technical report, figure 12", PAPER, claims, trials, design)


def plot(axes: Any, result: ExperimentResult) -> bool:
    """Legality of the rollout groups over the steps, every seed."""
    courses(axes, result, "legality", [arm.name for arm in ARMS])
    axes.set(title="Legality of the candidates", ylabel="share that are items")
    return True


def _selected_above_all(runs: list[Trial]) -> Claim:
    """Over the last tenth of the steps."""
    last = [{name: float(np.mean(one.curves[name][-5:])) for name in ("top_legality", "legality")} for one in runs]
    return Claim(
        claim="where the most probable are rewarded, they end up more legal than all candidates",
        holds=all(one["top_legality"] > one["legality"] for one in last),
        figures={"by seed": last},
    )


def _at_least(claim: str, margin: float, trials: Trials, above: str, below: str) -> Claim:
    """Every seed's difference is at least the margin."""
    differences = [one.mean(FIGURE) - other.mean(FIGURE) for one, other in zip(trials[above], trials[below], strict=True)]
    return Claim(claim=claim, holds=min(differences) >= margin, figures={"differences": differences})
