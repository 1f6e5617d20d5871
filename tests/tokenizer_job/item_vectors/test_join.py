"""Joined vectors: weights, and where items that nobody has met are put."""

from __future__ import annotations

import numpy as np

from tokenizer_job.item_vectors.join import NEIGHBOURS, join, neighbours_mean


def test_parts_are_scaled_by_their_weights() -> None:
    collaborative, content = np.eye(3, 4, dtype=np.float32), np.eye(3, 2, dtype=np.float32)
    joined = join(collaborative, content, 1.0, 0.5)
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined, np.concatenate([collaborative, 0.5 * content], 1))


def test_unmet_items_join_the_items_most_like_them() -> None:
    seen_content = np.repeat(np.eye(2, 3, dtype=np.float32), NEIGHBOURS, axis=0)
    seen = np.repeat(np.array([[1, 0], [0, 1]], np.float32), NEIGHBOURS, axis=0)
    np.testing.assert_allclose(neighbours_mean(np.eye(2, 3, dtype=np.float32), seen_content, seen), [[1, 0], [0, 1]])


def test_items_of_which_nothing_is_known_stay_zero() -> None:
    content = np.array([[1, 0], [0, 0]], np.float32)
    assert neighbours_mean(content, content[:1], np.ones((1, 2), np.float32))[1].tolist() == [0, 0]
    assert not neighbours_mean(content, np.zeros((0, 2), np.float32), np.zeros((0, 3), np.float32)).any()
