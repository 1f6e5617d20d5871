from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.expert_balancing import ARMS, arm, assess, measure, plot
from tests.benchmarks.outcomes import drawn, holds, outcome
from tests.benchmarks.small_arms import PLAN, SMALL


def test_arms_differ_in_their_balancing_alone() -> None:
    none, auxiliary, loss_free = (arm(name).policy for name in ARMS)
    assert (none.moe.balancing, auxiliary.moe.balancing, loss_free.moe.balancing) == ARMS
    for other in (auxiliary, loss_free):
        assert other.model_copy(update={"moe": none.moe}) == none
        assert other.moe.model_copy(update={"balancing": "none"}) == none.moe


def test_claims_follow_the_figures() -> None:
    none = [outcome(1, 5.0 + 0.02 * seed, seed, violation=1.0) for seed in range(3)]
    auxiliary = [outcome(1, 5.03, seed, violation=0.5) for seed in range(3)]
    balanced = [outcome(1, 5.02, seed, violation=0.4) for seed in range(3)]
    good = assess({"none": none, "auxiliary": auxiliary, "loss_free": balanced}, PLAN)
    assert holds(good) == [True, True, True, True]
    assert (good.value, good.rival, good.ratio) == pytest.approx((0.4, 1.0, 2.5))
    one_seed = [*balanced[:2], outcome(1, 5.3, 2, violation=0.6)]
    assert holds(assess({"none": none, "auxiliary": auxiliary, "loss_free": one_seed}, PLAN)) == [False] * 4


def test_a_small_run_measures_and_draws(tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"steps": 6})
    arms = [arm(name, 8, **SMALL) for name in ARMS]
    result = measure(plan, arms, (0,), tmp_path, lambda _: None, workers=1)
    assert {name: len(courses[0]) for name, courses in result.details["violations"].items()} == dict.fromkeys(ARMS, 6)
    assert all(run["held_out_violation"] > 0 for run in result.details["runs"])
    assert drawn(plot, result)
