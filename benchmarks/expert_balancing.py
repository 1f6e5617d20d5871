"""Loss-free balancing at least halves the experts' worst overload and does not cost loss.

A mixture of 8 experts, two per token, in both decoder blocks of a policy of width 128, without balancing, with the
auxiliary loss (Fedus et al. 2021, weight 1e-2) and loss-free (Wang et al. 2024, steps of 1e-2, since the run is short): one
pass over the same 48,000 simulated sessions of six targets at one learning rate; seeds differ in the initial weights alone.
MaxVio is the largest load of an expert over the mean, minus 1, in the worst mixture (Wang et al. 2024): of a batch, mean
over the last third of the steps, and of the loads summed over all held-out sessions, where chance has no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.arms import Outcome, Outcomes, lower_loss, mean_loss, run_arms, spread
from benchmarks.harness import BenchResult, Claim
from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Arm, Plan, Say, compact

NAME = "expert-balancing"
NONE, AUXILIARY, LOSS_FREE = ARMS = ("none", "auxiliary", "loss_free")
PLAN = Plan(steps=3_000)
LEARNING_RATE = 1e-3
SETTLED = 2 / 3
"""Share of the steps after which a course's MaxVio is read."""
BAR = 0.5


def run(data: Path, on_progress: Say, cache: Path) -> BenchResult:  # noqa: ARG001 - the sessions are simulated
    """Three arms, three seeds; takes over half an hour on two cores, and goes on where it was interrupted."""
    return measure(PLAN, [arm(name) for name in ARMS], SEEDS, cache, on_progress)


def arm(balancing: str, width: int = 128, **changes: object) -> Arm:
    """The policy with one kind of balancing."""
    moe = {"experts": 8, "active": 2, "decoder_blocks": [0, 1], "balancing": balancing, "gamma": 1e-2, "alpha": 1e-2}
    return Arm(name=balancing, policy=compact(width, moe=moe, **changes), learning_rate=LEARNING_RATE)


def measure(
    plan: Plan, arms: Sequence[Arm], seeds: Sequence[int], cache: Path, on_progress: Say, workers: int | None = None
) -> BenchResult:
    """The benchmark for arms of the three names in `ARMS`."""
    return assess(run_arms(NAME, plan, arms, seeds, cache, on_progress, workers), plan)


def assess(outcomes: Outcomes, plan: Plan) -> BenchResult:
    """What the outcomes of the three arms come to."""
    settled = {name: [_settled(one) for one in outcomes[name]] for name in ARMS}
    held_out = {name: [one.held_out_violation or 0.0 for one in outcomes[name]] for name in ARMS}
    ratios = [theirs / ours for ours, theirs in zip(settled[LOSS_FREE], settled[NONE], strict=True)]
    ours, theirs = fmean(settled[LOSS_FREE]), fmean(settled[NONE])
    return BenchResult(
        name=NAME,
        value=ours,
        unit="MaxVio of a batch, loss-free (rival: without balancing)",
        rival=theirs,
        ratio=theirs / ours,
        spread=(min(ratios), max(ratios)),
        details={
            "claims": [
                _halves("a batch, last third of the steps", settled),
                _halves("all held-out sessions", held_out),
                *(_costs_nothing(outcomes, other) for other in (NONE, AUXILIARY)),
            ],
            "runs": [one.figures() for name in ARMS for one in outcomes[name]],
            "curves": {name: [one.curve for one in outcomes[name]] for name in ARMS},
            "violations": {name: [one.violation for one in outcomes[name]] for name in ARMS},
            "loss_free_lower_than": {other: lower_loss(outcomes[LOSS_FREE], outcomes[other]) for other in ARMS[:2]},
            "learning_rate": LEARNING_RATE,
            "plan": plan.model_dump(),
        },
    )


def plot(axes: Any, result: BenchResult) -> bool:
    """The course of MaxVio, every arm and seed."""
    details = result.details
    for k, (name, courses) in enumerate(details["violations"].items()):
        for seed, course in enumerate(courses):
            steps = (np.arange(len(course)) + 0.5) * details["plan"]["steps"] / len(course)
            axes.plot(steps, course, color=f"C{k}", linewidth=1, label=name.replace("_", "-") if seed == 0 else None)
    axes.set(title="Overload of the busiest expert", xlabel="step", ylabel="MaxVio of a batch")
    axes.set_ylim(bottom=0)
    axes.legend()
    return True


def _settled(outcome: Outcome) -> float:
    return fmean(outcome.violation[int(SETTLED * len(outcome.violation)) :])


def _halves(what: str, violation: dict[str, list[float]]) -> Claim:
    pairs = zip(violation[LOSS_FREE], violation[NONE], strict=True)
    return Claim(
        claim=f"loss-free: MaxVio of {what} is at most {BAR} times that without balancing, at every seed",
        holds=all(ours <= BAR * theirs for ours, theirs in pairs),
        figures=violation,
    )


def _costs_nothing(outcomes: Outcomes, other: str) -> Claim:
    """Mean loss no higher than the other arm's by more than that arm's seeds differ."""
    allowed = spread(one.loss for one in outcomes[other])
    more = mean_loss(outcomes[LOSS_FREE]) - mean_loss(outcomes[other])
    return Claim(
        claim=f"loss-free: held-out loss is above that of {other} by no more than the latter's seeds differ",
        holds=more <= allowed,
        figures={"difference": more, "allowed": allowed} | {n: [o.loss for o in outcomes[n]] for n in (LOSS_FREE, other)},
    )
