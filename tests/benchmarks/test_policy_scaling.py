from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.policy_scaling import arm, assess, fit_power_law, measure, plot
from tests.benchmarks.outcomes import drawn, holds, outcome
from tests.benchmarks.small_arms import PLAN, SMALL


def test_the_fit_finds_the_published_curve() -> None:
    size = np.array([1e8, 2e8, 5e8, 1e9, 2e9, 4e9, 8e9])
    fit = fit_power_law(size, 3.13 + 3660 / size**0.489)
    assert (fit.floor, fit.alpha) == pytest.approx((3.13, 0.489), rel=1e-3)
    assert fit.scale == pytest.approx(3660, rel=1e-2)
    assert fit.at(np.array([1e9])) == pytest.approx([3.275], abs=1e-3)
    assert fit.r2 > 0.999999


def test_noise_is_not_explained() -> None:
    fit = fit_power_law(np.array([1e4, 1e5, 1e6, 1e7]), np.array([3.0, 4.0, 3.0, 4.0]))
    assert fit.r2 < 0.5


def test_the_learning_rate_falls_with_the_root_of_the_size() -> None:
    small, large = arm(32), arm(192)
    assert small.learning_rate / large.learning_rate == pytest.approx((1_802_304 / 69_984) ** 0.5)


def test_claims_follow_the_figures() -> None:
    falling = {f"d={k}": [outcome(10 ** (4 + k), 3 + 10.0**-k + 0.001 * seed, seed) for seed in range(3)] for k in range(4)}
    assert holds(assess(falling, PLAN, [])) == [True, True, True]
    overlapping = falling | {"d=1": [outcome(10**5, 3.101 if seed else 4.001, seed) for seed in range(3)]}
    assert holds(assess(overlapping, PLAN, [])) == [False, False, True]
    rising = {f"d={k}": [outcome(10 ** (4 + k), 4 - 10.0**-k, seed) for seed in range(3)] for k in range(4)}
    assert holds(assess(rising, PLAN, [])) == [False, False, False]


def test_a_small_run_measures_and_draws(tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"steps": 4})
    result = measure(plan, [arm(width, **SMALL) for width in (24, 16, 8)], (0, 1), tmp_path, lambda _: None, workers=1)
    assert result.rival is not None
    assert result.ratio == pytest.approx(result.rival / result.value)
    assert list(result.details["sizes"]) == ["d=8", "d=16", "d=24"]
    assert [(run["arm"], run["seed"]) for run in result.details["runs"][:3]] == [("d=8", 0), ("d=8", 1), ("d=16", 0)]
    assert 3 < result.value < 3 * np.log(16) + 0.5
    assert drawn(plot, result)
