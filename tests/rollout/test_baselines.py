from __future__ import annotations

import numpy as np

from rollout.baselines import ItemKnn, popularity_scores, top_unseen


def test_item_knn_is_the_cosine_of_co_watching() -> None:
    """Items 0 and 1 share both users; item 2 shares one of item 0's two users: cosine 1 / sqrt(2 * 1)."""
    knn = ItemKnn([np.array([0, 1, 2]), np.array([0, 1, 1]), np.array([-1])], items=4)
    scores = knn.scores([np.array([0])])
    np.testing.assert_allclose(scores[0], [0.0, 1.0, 1 / np.sqrt(2), 0.0], atol=1e-6)


def test_seen_items_are_left_out_and_ties_go_to_the_lowest_row() -> None:
    scores = np.array([[3.0, 5.0, 3.0, 1.0]], np.float32)
    assert top_unseen(scores, [np.array([1])], 3).tolist() == [[0, 2, 3]]


def test_popularity_counts_known_items() -> None:
    assert popularity_scores(np.array([2, 2, 0, -1]), 3).tolist() == [1.0, 0.0, 2.0]
