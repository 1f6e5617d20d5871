"""Preference alignment lifts the best of what is generated more than its mean, and few pairs suffice (OneRec first version).

Iterative DPO: the best and the worst of 64 candidates make a pair, of one session of a step's sixteen or of five; a pair
weighs the same in both arms. The paper's shares of samples, 1 % and 5 %, have the same ratio.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Claim
from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Say
from deploy.experiments.reinforcement import REINFORCEMENT, Arm
from deploy.experiments.tr09 import ALONE
from deploy.experiments.trials import Design, ExperimentResult, Trials, bars, found, higher, rises_more, run_trials

NAME = "tr21"
RL = REINFORCEMENT.model_copy(update={"objective": "dpo", "lambda_preference": 1.0})
"""A new pair pushes with lambda beta / 2 over four, about as much as one of the 96 targets of a step's next-token loss."""
FEW, MANY = (Arm(name=f"{groups} of 16 with a pair", rl=RL, groups=groups) for groups in (1, 5))
ARMS = (ALONE, FEW, MANY)
BEST, MEAN = "reward@64", "mean_reward@64"
MOST = 0.8
"""Share of the gain with many pairs that few must reach; the paper says about .95 at a fifth of the cost."""
PAPER = {
    "mean and best, OneRec-1B, with DPO, with IPA": {
        "session watch time": [[0.0991, 0.1529], [0.1014, 0.1595], [0.1025, 0.1933]],
        "view probability": [[0.6039, 0.7013], [0.6127, 0.7116], [0.6141, 0.7646]],
        "follow probability": [[0.00349, 0.00919], [0.00339, 0.00896], [0.00354, 0.00992]],
        "like probability": [[0.0360, 0.0660], [0.0351, 0.0644], [0.0397, 0.1203]],
    },
    "share of the effect with pairs of 1 % in place of 5 % of the samples": 0.95,
}


def run(cache: Path, on_progress: Say) -> ExperimentResult:
    """Three arms, three seeds; about an hour and a half on two cores after the starts."""
    return assess(run_trials(Design(), ARMS, SEEDS, cache, on_progress), Design())


def assess(trials: Trials, design: Design) -> ExperimentResult:
    """What the arms come to."""
    alone, few, many = (trials[arm.name] for arm in ARMS)
    claims = [
        higher("with few pairs the best of a beam of 64 is better than by fine-tuning alone", few, alone, BEST),
        higher("with many, too", many, alone, BEST),
        rises_more("few pairs raise the best by more than the mean", few, alone, BEST, MEAN),
        _nearly_as_much(trials),
    ]
    return found(NAME, "OneRec first version, results and ablation of the DPO sample ratio", PAPER, claims, trials, design)


def plot(axes: Any, result: ExperimentResult) -> bool:
    """The best of a beam, every seed."""
    return bars(axes, result, BEST, [arm.name for arm in ARMS], "Pairs of iterative preference alignment")


def _nearly_as_much(trials: Trials) -> Claim:
    """With every seed; without a gain there is nothing to compare."""
    alone, few, many = (np.array([one.mean(BEST) for one in trials[arm.name]]) for arm in ARMS)
    gains = {FEW.name: few - alone, MANY.name: many - alone}
    return Claim(
        claim=f"few pairs bring at least {MOST:.0%} of what five times as many bring",
        holds=bool((gains[MANY.name] > 0).all() and (gains[FEW.name] >= MOST * gains[MANY.name]).all()),
        figures={name: gain.tolist() for name, gain in gains.items()},
    )
