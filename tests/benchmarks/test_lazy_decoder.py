from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.lazy_decoder import ARMS, EVENTS, FULL, LAZY, PLAN, arm, assess, measure, plot
from common.policy import build_policy
from common.policy.flops import training_flops_per_target
from tests.benchmarks import small_arms
from tests.benchmarks.outcomes import drawn, holds, outcome


def test_the_lazy_decoder_costs_a_tenth_with_blocks_of_the_same_size() -> None:
    flops = {name: training_flops_per_target(arm(name).policy, PLAN.targets) for name in ARMS}
    assert 10 < flops[FULL] / flops[LAZY] < 12
    blocks = {}
    for name in ARMS:
        named = build_policy(arm(name).policy).named_parameters()
        blocks[name] = sum(p.numel() for key, p in named if key.startswith(("encoder.", "decoder.")))
    assert blocks[LAZY] / blocks[FULL] == pytest.approx(1.05, abs=0.01)
    assert PLAN.past == arm(LAZY).policy.short_length == EVENTS


def test_claims_follow_the_figures() -> None:
    flops = {LAZY: 1e8, FULL: 1e9}
    rival = [outcome(1, 6.0, seed) for seed in range(2)]
    near = [outcome(1, 6.05, 0), outcome(1, 5.9, 1)]
    good = assess({LAZY: near, FULL: rival}, flops, PLAN)
    assert holds(good) == [True, True]
    assert good.rival == 3.0  # the mean of two levels
    far = [outcome(1, 6.07, 0), outcome(1, 5.9, 1)]
    assert holds(assess({LAZY: far, FULL: rival}, flops | {LAZY: 1.1e8}, PLAN)) == [False, False]


def test_a_small_run_measures_and_draws(tmp_path: Path) -> None:
    plan = small_arms.PLAN.model_copy(update={"steps": 4, "past": 20})
    arms = [arm(name, 8, **small_arms.SMALL) for name in ARMS]
    result = measure(plan, arms, (0,), tmp_path, lambda _: None, workers=1)
    assert set(result.details["forward_flops_per_context"][LAZY]["context"]) >= {"project_events"}
    assert set(result.details["forward_flops_per_context"][FULL]["context"]) >= {"encoder", "decoder"}
    assert drawn(plot, result)
