"""Reinforcement by play time drifts to long videos, by the duration-aware reward it does not (OneRec-V2, section 4.1).

Both learn from the same logged sessions by the same objective; only how plays are ranked differs: among the user's earlier
plays of like videos, or among all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness import Claim
from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Say
from common.settings import RlSettings
from deploy.experiments.reinforcement import Arm
from deploy.experiments.tr09 import ALONE
from deploy.experiments.trials import Design, ExperimentResult, Trials, bars, found, higher, run_trials

NAME = "tr18"
RL = RlSettings(lambda_feedback=1.0)
AWARE = Arm(name="duration-aware", reinforced=False, feedback="duration-aware", rl=RL)
RAW = Arm(name="raw play time", reinforced=False, feedback="raw play time", rl=RL)
ARMS = (ALONE, AWARE, RAW)
PAPER = {"recommended durations": {"raw play time": "drift up", "duration-aware": "do not"}}
FIGURE = "list_log_duration"
SHARE = 0.25


def run(cache: Path, on_progress: Say) -> ExperimentResult:
    """Three arms, three seeds; about half an hour on two cores after the starts."""
    return assess(run_trials(Design(), ARMS, SEEDS, cache, on_progress), Design())


def assess(trials: Trials, design: Design) -> ExperimentResult:
    """What the arms come to; durations are means of a list's log seconds."""
    alone, aware, raw = (trials[arm.name] for arm in ARMS)
    claims = [
        higher("by raw play time lists get longer videos than by fine-tuning alone", raw, alone, FIGURE),
        higher("and longer ones than by the duration-aware reward", raw, aware, FIGURE),
        _drifts_less(trials),
    ]
    return found(NAME, "OneRec-V2, section 4.1", PAPER, claims, trials, design)


def plot(axes: Any, result: ExperimentResult) -> bool:
    """The durations of the three, every seed."""
    return bars(axes, result, FIGURE, [arm.name for arm in ARMS], "Duration of what is recommended")


def _drifts_less(trials: Trials) -> Claim:
    """The most that the duration-aware reward adds with any seed is below a share of the least that raw play time adds."""
    drifts = {
        arm.name: [
            one.mean(FIGURE) - other.mean(FIGURE) for one, other in zip(trials[arm.name], trials[ALONE.name], strict=True)
        ]
        for arm in (AWARE, RAW)
    }
    holds = max(drifts[AWARE.name]) < SHARE * min(drifts[RAW.name])
    return Claim(claim=f"the duration-aware reward adds less than {SHARE:.0%} of that", holds=holds, figures=drifts)
