"""The lazy decoder reaches the encoder-decoder's loss within .03 for a tenth of the operations.

OneRec-V2's comparison of architectures in small: four lazy blocks over one linear map of the context, against two encoder
and two decoder layers, width 128 both, 0.69 million parameters in the blocks against 0.66. A context is the user's last
768 events and 32 positive ones, five targets share it; sessions of users who have seen less are left out. Both train in
one pass on the same 20,000 simulated sessions at one learning rate; seeds differ in the initial weights alone. Losses are
means over the levels (OneRec-V2's scale). Operations are counted on the program with every pathway full, attention included.

How to read it: one pass over 100,000 targets ends long before either policy has converged, and an architecture that
learns faster gains by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.arms import Outcomes, run_arms
from benchmarks.harness import BenchResult, Claim
from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Arm, Plan, Say, compact
from common.policy.flops import count_flops, training_flops_per_target
from common.settings import SimulatorSettings

NAME = "lazy-decoder"
LAZY, FULL = ARMS = ("lazy", "encoder-decoder")
EVENTS = 768
PLAN = Plan(
    simulator=SimulatorSettings(items=10_000, users=400, requests_per_user=250),
    targets=5,
    past=EVENTS,
    steps=1_250,
    held_out=2_000,
)
LEARNING_RATE = 1e-3
LOSS_BAR, FLOPS_BAR = 0.03, 10.0


def run(data: Path, on_progress: Say, cache: Path) -> BenchResult:  # noqa: ARG001 - the sessions are simulated
    """Two arms, three seeds; takes about an hour on two cores, and goes on where it was interrupted."""
    return measure(PLAN, [arm(name) for name in reversed(ARMS)], SEEDS, cache, on_progress)


def arm(name: str, width: int = 128, events: int = EVENTS, **changes: object) -> Arm:
    """One of the two architectures; the lazy FFN is narrower, since it has three matrices, not two."""
    lazy = {"architecture": "lazy_decoder", "decoder_layers": 4, "ffn": 3 * width // 2, "lazy": {"embed_width": width // 2}}
    history = {"short_length": events, "positive_length": 32}
    policy = compact(width, **history | (lazy if name == LAZY else {}) | changes)
    return Arm(name=name, policy=policy, learning_rate=LEARNING_RATE)


def measure(
    plan: Plan, arms: Sequence[Arm], seeds: Sequence[int], cache: Path, on_progress: Say, workers: int | None = None
) -> BenchResult:
    """The benchmark for arms of the two names in `ARMS`."""
    flops = {one.name: training_flops_per_target(one.policy, plan.targets) for one in arms}
    parts = {one.name: _parts(one, plan.targets) for one in arms}
    result = assess(run_arms(NAME, plan, arms, seeds, cache, on_progress, workers), flops, plan)
    return result.model_copy(update={"details": result.details | {"forward_flops_per_context": parts}})


def assess(outcomes: Outcomes, flops: dict[str, float], plan: Plan) -> BenchResult:
    """What the outcomes and the training operations per target come to."""
    losses = {name: [fmean(one.loss_per_level) for one in outcomes[name]] for name in ARMS}
    ours, theirs = fmean(losses[LAZY]), fmean(losses[FULL])
    ratios = [full / lazy for lazy, full in zip(losses[LAZY], losses[FULL], strict=True)]
    fewer = flops[FULL] / flops[LAZY]
    seconds = {name: fmean(one.seconds for one in outcomes[name]) for name in ARMS}
    return BenchResult(
        name=NAME,
        value=ours,
        unit="held-out nats per target, mean of the levels",
        rival=theirs,
        ratio=theirs / ours,
        spread=(min(ratios), max(ratios)),
        details={
            "claims": [
                Claim(
                    claim=f"lazy: held-out loss is at most {LOSS_BAR} above the encoder-decoder's, at every seed",
                    holds=all(x - y <= LOSS_BAR for x, y in zip(losses[LAZY], losses[FULL], strict=True)),
                    figures=losses | {"difference": ours - theirs},
                ),
                Claim(
                    claim=f"training on a target costs at least {FLOPS_BAR:g} times fewer counted operations",
                    holds=fewer >= FLOPS_BAR,
                    figures={name: flops[name] for name in ARMS} | {"ratio": fewer},
                ),
            ],
            "flops_per_target": flops,
            "seconds": seconds,
            "runs": [one.figures() for name in ARMS for one in outcomes[name]],
            "curves": {name: [one.curve for one in outcomes[name]] for name in ARMS},
            "learning_rate": LEARNING_RATE,
            "plan": plan.model_dump(),
        },
    )


def plot(axes: Any, result: BenchResult) -> bool:
    """Training loss over the operations spent, every arm and seed."""
    details = result.details
    plan, levels = details["plan"], len(details["runs"][0]["loss_per_level"])
    for k, (name, courses) in enumerate(details["curves"].items()):
        spent = details["flops_per_target"][name] * plan["steps"] * plan["batch"] * plan["targets"] / 1e12
        for seed, course in enumerate(courses):
            done = (np.arange(len(course)) + 0.5) / len(course)
            axes.plot(done * spent, np.array(course) / levels, color=f"C{k}", label=name if seed == 0 else None)
    axes.set(title="Training loss", xlabel="counted tera-operations", ylabel="nats per target, mean of the levels")
    axes.set_xscale("log")
    axes.legend()
    return True


def _parts(one: Arm, targets: int) -> dict[str, dict[str, int]]:
    """Forward operations of one context with its targets, by the policy's parts."""
    flops = count_flops(one.policy, targets)
    context, shown = ({part: work.total for part, work in side.items()} for side in (flops.context, flops.targets))
    return {"context": context, "targets": shown}
