"""Held-out next-token loss falls with every size of the policy, along E + A / N^alpha.

The trend of OneRec-V2's scaling figure, at a size that two cores can pay for: one pass over 100,000 simulated sessions of
six targets, the same for all widths and seeds; seeds differ in the initial weights alone, so that their spread is that of
training and not of data. Losses are sums over the levels, N counts all parameters but the id tables. The learning rate
follows OneRec-V2's table of models, proportional to 1 / sqrt(N), with 1e-3 at a million parameters.

How to read it: five points fix a curve of three parameters loosely, and R^2 forgives much on a falling curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from benchmarks.arms import Outcomes, lower_loss, mean_loss, run_arms, size_of
from benchmarks.harness import BenchResult, Claim
from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Arm, Plan, Say, compact

Floats = npt.NDArray[np.float64]
NAME = "policy-scaling"
WIDTHS = (192, 128, 96, 64, 32)
"""The longest first: what is left over at the end is short."""
PLAN = Plan(steps=6_250)
ALPHAS = (0.02, 3.0)
R2_BAR = 0.95


@dataclass(frozen=True)
class Fit:
    """L(N) = floor + scale / N^alpha."""

    floor: float
    scale: float
    alpha: float
    r2: float

    def at(self, size: Floats) -> Floats:
        """The loss it expects of policies of these sizes."""
        return self.floor + self.scale / size**self.alpha


def run(data: Path, on_progress: Say, cache: Path) -> BenchResult:  # noqa: ARG001 - the sessions are simulated
    """Five widths, three seeds; takes over an hour on two cores, and goes on where it was interrupted."""
    return measure(PLAN, [arm(width) for width in WIDTHS], SEEDS, cache, on_progress)


def arm(width: int, **changes: object) -> Arm:
    """The policy of a width, with the learning rate of its size."""
    policy = compact(width, **changes)
    name = f"d={width}"
    size = size_of(Arm(name=name, policy=policy, learning_rate=1))
    return Arm(name=name, policy=policy, learning_rate=1e-3 * (1e6 / size) ** 0.5)


def measure(
    plan: Plan, arms: Sequence[Arm], seeds: Sequence[int], cache: Path, on_progress: Say, workers: int | None = None
) -> BenchResult:
    """The benchmark for any arms of different sizes."""
    outcomes = run_arms(NAME, plan, arms, seeds, cache, on_progress, workers)
    return assess({name: outcomes[name] for name in sorted(outcomes, key=lambda name: outcomes[name][0].size)}, plan, arms)


def assess(outcomes: Outcomes, plan: Plan, arms: Sequence[Arm]) -> BenchResult:
    """What the outcomes, smallest policy first, come to."""
    names = list(outcomes)
    losses = {name: [one.loss for one in outcomes[name]] for name in names}
    fit = fit_power_law(*_points(outcomes))
    ratios = [small / large for small, large in zip(losses[names[0]], losses[names[-1]], strict=True)]
    ours, theirs = mean_loss(outcomes[names[-1]]), mean_loss(outcomes[names[0]])
    return BenchResult(
        name=NAME,
        value=ours,
        unit="held-out nats per target, largest policy (rival: smallest)",
        rival=theirs,
        ratio=theirs / ours,
        spread=(min(ratios), max(ratios)),
        details={
            "claims": [*_claims(outcomes, losses), _claim_on_fit(fit)],
            "fit": asdict(fit),
            "sizes": {name: outcomes[name][0].size for name in names},
            "runs": [one.figures() for name in names for one in outcomes[name]],
            "curves": {name: [one.curve for one in outcomes[name]] for name in names},
            "learning_rates": {one.name: one.learning_rate for one in arms},
            "plan": plan.model_dump(),
        },
    )


def fit_power_law(size: Floats, loss: Floats) -> Fit:
    """Least squares of E + A / N^alpha: for a given alpha it is linear in E and A, so that only alpha is searched."""

    def linear(alpha: float) -> tuple[Floats, float]:
        columns = np.stack([np.ones_like(size), (size / size.mean()) ** -alpha], 1)
        solution = np.linalg.lstsq(columns, loss, rcond=None)[0]
        return solution, float(((columns @ solution - loss) ** 2).sum())

    alpha = float(minimize_scalar(lambda a: linear(float(a))[1], bounds=ALPHAS, method="bounded").x)
    (floor, scale), error = linear(alpha)
    r2 = 1 - error / float(((loss - loss.mean()) ** 2).sum())
    return Fit(float(floor), float(scale * size.mean() ** alpha), alpha, r2)


def plot(axes: Any, result: BenchResult) -> bool:
    """Loss over size, every seed and the fit."""
    details = result.details
    for run in details["runs"]:
        axes.plot(run["size"], run["loss"], "o", color="C0", markersize=4)
    sizes = np.geomspace(min(details["sizes"].values()), max(details["sizes"].values()), 100)
    fit = Fit(**details["fit"])
    label = f"{fit.floor:.2f} + {fit.scale:.3g} / N^{fit.alpha:.2f}, R² {fit.r2:.3f}"
    axes.plot(sizes, fit.at(sizes), color="C1", label=label)
    axes.set(title="Loss of a day ahead after one pass", xlabel="parameters without id tables", ylabel="nats per target")
    axes.set_xscale("log")
    axes.legend()
    return True


def _points(outcomes: Outcomes) -> tuple[Floats, Floats]:
    sizes = np.array([runs[0].size for runs in outcomes.values()], np.float64)
    return sizes, np.array([mean_loss(runs) for runs in outcomes.values()])


def _claims(outcomes: Outcomes, losses: dict[str, list[float]]) -> list[Claim]:
    """Every size against the next larger one."""
    names = list(outcomes)
    steps = list(pairwise(names))
    compared = {f"{smaller} to {larger}": lower_loss(outcomes[larger], outcomes[smaller]) for smaller, larger in steps}
    return [
        Claim(
            claim="the worst seed of every size is better than the best seed of the next smaller one",
            holds=all(max(losses[larger]) < min(losses[smaller]) for smaller, larger in steps),
            figures=losses,
        ),
        Claim(
            claim="every size is better than the next smaller one at every seed, and over users (bootstrap p < .05)",
            holds=all(figures["holds"] for figures in compared.values()),
            figures=compared,
        ),
    ]


def _claim_on_fit(fit: Fit) -> Claim:
    return Claim(
        claim=f"E + A / N^alpha with A > 0 explains the mean losses with R^2 above {R2_BAR}",
        holds=fit.r2 > R2_BAR and fit.scale > 0,
        figures=asdict(fit),
    )
