from __future__ import annotations

import torch

from benchmarks.rollout import Scale, claims, compare, floor_seconds, overlap
from common.settings import PolicySettings

SMALL = Scale(
    policy=PolicySettings(d_model=16, heads=2, ffn=32, levels=3, codes=32, short_length=4, positive_length=12),
    items=300,
    topics=20,
    width=16,
    users=(1, 2),
    training_steps=3,
    runs=1,
)


def test_every_case_is_checked_against_the_plain_search_and_the_rival() -> None:
    said: list[str] = []
    result = compare(SMALL, said.append)
    cases = result.details["cases"]
    assert list(cases) == ["random, 1", "random, 2", "trained, 1", "trained, 2"]
    assert len(said) == 5
    for case in cases.values():
        assert case["score_error"] <= 1e-5
        assert case["rival_score_error"] <= 1e-3
        assert case["overlap"] >= 0.9  # nearly equal ones may change places
        assert case["ours"] > 0
        assert case["rival"] > case["ours"] / 100
        assert case["rival_as_it_comes"] > case["ours"] / 100


def test_claims_fail_where_a_case_does() -> None:
    good = {"ratio": 120.0, "ratio_as_it_comes": 240.0, "score_error": 1e-6, "overlap": 1.0, "over_floor": 1.5}
    held = claims({"random, 1": good, "trained, 1": good})
    assert all(claim.holds for claim in held)
    slow = claims({"random, 1": good | {"ratio": 59.0}, "trained, 1": good | {"ratio": 61.0, "score_error": 1e-4}})
    assert [claim.holds for claim in slow] == [False, False, True, True, False, True, True]


def test_the_floor_grows_with_what_must_be_done() -> None:
    wider = SMALL.model_copy(update={"width": 64})
    assert floor_seconds(wider, users=4) > floor_seconds(SMALL, users=1)


def test_overlap_is_a_share_of_sets() -> None:
    ours = torch.tensor([[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    assert overlap(ours, ours.flip(1)) == 1.0
    assert overlap(ours, torch.tensor([[[1, 2], [9, 9]], [[0, 0], [9, 9]]])) == 0.25
