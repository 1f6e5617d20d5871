from __future__ import annotations

import numpy as np
import torch

from benchmarks.constrained import allow, claims, compare
from benchmarks.harness import Race
from benchmarks.rollout import Scale
from common.settings import PolicySettings

SMALL = Scale(
    policy=PolicySettings(d_model=16, heads=2, ffn=32, levels=3, codes=32, short_length=4, positive_length=12),
    items=300,
    topics=32,
    width=16,
    runs=1,
)


def test_both_searches_find_the_same_items() -> None:
    result = compare(SMALL, lambda _: None)
    faster, _, legal, same = result.details["claims"]
    assert faster.figures["free over constrained"] > 0
    assert legal.holds
    assert legal.figures == {"ours": 1.0, "rival": 1.0}
    assert same.figures["overlap"] >= 0.9  # nearly equal ones may change places
    assert same.figures["score_error"] < 1e-3


def test_the_prefix_function_knows_what_may_follow() -> None:
    allowed = allow(np.array([[1, 2, 3], [1, 2, 5], [4, 0, 0]]))
    assert [sorted(allowed(0, torch.tensor([0, *tokens]))) for tokens in ([], [1], [1, 2], [4, 0])] == [
        [1, 4],
        [2],
        [3, 5],
        [0],
    ]


def test_claims_fail_where_a_figure_does() -> None:
    same = {"overlap": 1.0}
    assert all(claim.holds for claim in claims(Race([1.0], [10.0]), Race([1.0], [1.1]), {"ours": 1.0}, same))
    held = claims(Race([1.0], [9.0]), Race([1.0], [0.9]), {"ours": 0.999}, {"overlap": 0.9})
    assert not any(claim.holds for claim in held)
