from __future__ import annotations

import numpy as np
import pytest

from common.messages import NO_ITEM
from rollout.evaluation import (
    cold_start_share,
    coverage,
    gini,
    legality_at,
    lorenz,
    paired_bootstrap,
    pass_and_mean,
    recall_and_ndcg,
    recommendation_counts,
)


def test_recall_and_ndcg_of_a_worked_example() -> None:
    """Targets {1, 2}, ranking [1, 9, 2]: recall@2 = 1/2; NDCG@3 = (1 + 1/2) / (1 + 1/log2 3)."""
    ranked, targets = [np.array([1, 9, 2])], [np.array([1, 2])]
    assert recall_and_ndcg(ranked, targets, 2)[0].tolist() == [0.5]
    np.testing.assert_allclose(recall_and_ndcg(ranked, targets, 3)[1], [1.5 / (1 + 1 / np.log2(3))])


def test_one_target_found_third_and_one_not_found() -> None:
    ranked, targets = [np.array([5, 6, 7]), np.array([5, 6])], [np.array([7]), np.array([8])]
    recall, ndcg = recall_and_ndcg(ranked, targets, 5)
    assert recall.tolist() == [1.0, 0.0]
    np.testing.assert_allclose(ndcg, [1 / np.log2(4), 0.0])


def test_counts_are_of_the_first_k_and_coverage_is_the_share_of_items_shown() -> None:
    counts = recommendation_counts([np.array([0, 1, 4]), np.array([1, 2, 0])], items=5, k=2)
    assert counts.tolist() == [1, 2, 1, 0, 0]
    assert coverage(counts) == 0.6


def test_gini_and_lorenz_of_worked_examples() -> None:
    """Counts 1, 3: of four recommendations the lesser half of the items has a quarter; area under the curve 3/8."""
    np.testing.assert_allclose(lorenz(np.array([3, 1])), [0, 0.25, 1])
    assert gini(np.array([3, 1])) == pytest.approx(1 - 2 * 3 / 8)
    assert gini(np.array([2, 2, 2])) == pytest.approx(0.0)
    assert gini(np.array([0, 0, 0, 7])) == pytest.approx(3 / 4)


def test_the_gini_is_the_mean_absolute_difference_over_twice_the_mean() -> None:
    counts = np.random.default_rng(0).integers(0, 9, 50)
    differences = np.abs(counts[:, None] - counts[None, :]).mean()
    assert gini(counts) == pytest.approx(differences / (2 * counts.mean()))


def test_the_curve_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one recommendation, got none"):
        lorenz(np.zeros(3, np.int64))


def test_the_cold_start_share_counts_recommendations_of_items_without_interactions() -> None:
    assert cold_start_share(np.array([3, 1, 4]), np.array([True, False, True])) == 1 / 8


def test_legality_is_judged_over_the_head_of_the_beam() -> None:
    items = np.array([7, NO_ITEM, 8, NO_ITEM])
    assert [legality_at(items, k) for k in (1, 2, 3, 4)] == [1.0, 0.5, 2 / 3, 0.5]


def test_pass_is_the_best_of_each_metric_and_grows_with_nested_lists() -> None:
    best, mean = pass_and_mean(np.array([[0.1, 0.8], [0.5, 0.2]]))
    assert best.tolist() == [0.5, 0.8]
    np.testing.assert_allclose(mean, [0.3, 0.5])
    scores = np.random.default_rng(0).random((64, 3))
    nested = np.array([pass_and_mean(scores[:k])[0] for k in (1, 4, 16, 64)])
    assert (np.diff(nested, axis=0) >= 0).all()


def test_the_bootstrap_tells_a_gain_from_noise() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(400)
    assert paired_bootstrap(base + 0.05 + 0.1 * rng.normal(size=400), base, 500, 0) < 0.01
    assert paired_bootstrap(base + 0.1 * rng.normal(size=400), base, 500, 0) > 0.01
