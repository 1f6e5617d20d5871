"""The industrial reward cuts the share of viral items at a stable true reward (OneRec technical report, section 4.3).

The policy's own lists decide whether the rule is in force: it dampens the rewards of viral items while more than 8 % of
what is generated are (a tenth of the catalogue is viral).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Claim
from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Say
from common.settings import IndustrialSettings
from deploy.experiments.reinforcement import Arm
from deploy.experiments.trials import RESAMPLES, Design, ExperimentResult, Trial, Trials, bars, found, higher, run_trials

NAME = "tr14"
WITHOUT, WITH = ARMS = (
    Arm(name="G=64"),
    Arm(name="with the rule", industrial=IndustrialSettings(share_limit=0.08)),
)
PAPER = {"viral exposure": "-9.59 %", "watch time and stay time": "stable"}
CUT = 0.05


def run(cache: Path, on_progress: Say) -> ExperimentResult:
    """Two arms, three seeds; about an hour on two cores after the starts."""
    return assess(run_trials(Design(), ARMS, SEEDS, cache, on_progress), Design())


def assess(trials: Trials, design: Design) -> ExperimentResult:
    """What the two arms come to."""
    ours, theirs = trials[WITH.name], trials[WITHOUT.name]
    cuts = [1 - one.mean("list_viral") / other.mean("list_viral") for one, other in zip(ours, theirs, strict=True)]
    claims = [
        higher("lists without the rule have more viral items", theirs, ours, "list_viral"),
        Claim(claim=f"the rule cuts their share by at least {CUT:.0%}", holds=min(cuts) >= CUT, figures={"cuts": cuts}),
        _stable(ours, theirs),
    ]
    return found(NAME, "OneRec technical report, section 4.3", PAPER, claims, trials, design)


def plot(axes: Any, result: ExperimentResult) -> bool:
    """The share of viral items in lists, every seed."""
    return bars(axes, result, "list_viral", [arm.name for arm in ARMS], "Viral items in a list")


def _stable(ours: list[Trial], theirs: list[Trial]) -> Claim:
    """The true reward of a list loses less than 1 %, at the lower end of the bootstrap's 95 % interval over users."""
    means = [np.mean([one.users["list_reward"] for one in side], 0) for side in (ours, theirs)]
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(means[0]), (RESAMPLES, len(means[0])))
    lower = float(np.quantile((means[0] - means[1])[draws].mean(1), 0.025) / means[1].mean())
    return Claim(claim="the true reward of a list loses less than 1 %", holds=lower > -0.01, figures={"lower end": lower})
