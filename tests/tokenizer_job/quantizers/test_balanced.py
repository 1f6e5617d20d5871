"""Balanced k-means: equal sizes on any data, near-optimal for small data, nearest codes for items it has not seen."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_job.quantizers.balanced import MINCOST_LIMIT, fit_balanced
from tokenizer_job.quantizers.codebooks import Codes, Floats

torch.set_num_threads(1)
METHODS: list[Literal["capacity", "mincost"]] = ["capacity", "mincost"]


def skewed(items: int, seed: int = 0) -> Floats:
    """Four fifths of the items in one tight group, the rest in another far away."""
    rng = np.random.default_rng(seed)
    first = rng.random(items) < 0.8
    points = rng.normal(size=(items, 6)) * np.where(first, 0.2, 1.0)[:, None] + np.where(first, 0.0, 8.0)[:, None]
    return points.astype(np.float32)


def sizes(codes: Codes, count: int) -> list[int]:
    return sorted(np.bincount(codes, minlength=count).tolist())


def inertia(vectors: Floats, codes: Codes) -> float:
    return sum(float(((vectors[codes == k] - vectors[codes == k].mean(0)) ** 2).sum()) for k in np.unique(codes))


@given(st.integers(20, 90), st.integers(2, 12), st.sampled_from(METHODS), st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_sizes_differ_by_at_most_one(items: int, codes: int, method: Literal["capacity", "mincost"], seed: int) -> None:
    _, sids = fit_balanced(skewed(items, seed), codes, 2, method, seed)
    for level in sids.T:
        counts = sizes(level, codes)
        assert counts[-1] - counts[0] <= 1


@pytest.mark.parametrize("method", METHODS)
def test_a_skewed_mixture_has_full_entropy(method: Literal["capacity", "mincost"]) -> None:
    model, sids = fit_balanced(skewed(320), 16, 3, method, seed=0)
    for level in sids.T:
        assert sizes(level, 16) == [20] * 16
    assert (model.method, model.codes, model.levels) == ("balanced", 16, 3)
    share = np.bincount(model.encode(skewed(320))[:, 0], minlength=16) / 320
    assert share.max() > 0.07  # nearest codes are not balanced: it is the assignment that is


def test_least_cost_is_no_worse_than_greedy_and_centroids_are_means() -> None:
    vectors = skewed(160)
    best = {method: fit_balanced(vectors, 8, 1, method, seed=1) for method in METHODS}
    greedy, least = (inertia(vectors, best[method][1][:, 0]) for method in METHODS)
    assert least <= greedy * 1.001
    model, sids = best["mincost"]
    for code, centroid in enumerate(model.codebooks[0]):
        np.testing.assert_allclose(centroid, vectors[sids[:, 0] == code].mean(0), atol=1e-5)


def test_two_pairs_on_a_line() -> None:
    model, sids = fit_balanced(np.array([[0], [1], [10], [11]], np.float32), 2, 2, "capacity", seed=0)
    assert sorted(model.codebooks[0].ravel().tolist()) == [0.5, 10.5]
    np.testing.assert_array_equal(model.decode(sids), [[0], [1], [10], [11]])


def test_an_item_that_was_not_fitted_gets_the_nearest_codes() -> None:
    model, _ = fit_balanced(skewed(200), 8, 1, "capacity", seed=0)
    new = skewed(50, seed=9)
    np.testing.assert_array_equal(model.encode(new)[:, 0], ((new[:, None] - model.codebooks[0][None]) ** 2).sum(2).argmin(1))


def test_the_same_seed_gives_the_same_assignment() -> None:
    first, second = (fit_balanced(skewed(150), 8, 2, "capacity", seed=4) for _ in range(2))
    np.testing.assert_array_equal(first[1], second[1])
    assert first[0].fingerprint() == second[0].fingerprint()


def test_large_data_is_refused_by_mincost() -> None:
    with pytest.raises(ValueError, match=f"balanced_method=mincost takes at most {MINCOST_LIMIT} items, got"):
        fit_balanced(np.zeros((MINCOST_LIMIT + 1, 1), np.float32), 2, 1, "mincost", seed=0)
