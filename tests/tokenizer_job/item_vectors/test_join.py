"""Joined vectors: weights, and where items that nobody has met are put."""

from __future__ import annotations

import numpy as np

from tokenizer_job.item_vectors.join import NEIGHBOURS, fill_unseen, join_vectors


def test_parts_are_scaled_to_their_weights() -> None:
    rng = np.random.default_rng(0)
    content = rng.normal(size=(6, 4))
    content = (content / np.linalg.norm(content, axis=1, keepdims=True)).astype(np.float32)
    joined = join_vectors(9 * rng.normal(size=(6, 3)).astype(np.float32), content, 1.0, 0.5)
    assert joined.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(joined[:, :3], axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(joined[:, 3:], 0.5 * content)


def test_unmet_items_join_the_items_most_like_them() -> None:
    content = np.repeat(np.eye(2, 3, dtype=np.float32), NEIGHBOURS + 1, axis=0)
    collaborative = np.repeat(np.array([[1, 0], [0, 1]], np.float32), NEIGHBOURS + 1, axis=0)
    unmet = [0, NEIGHBOURS + 1]
    collaborative[unmet] = 0
    filled = fill_unseen(collaborative, content)
    np.testing.assert_allclose(filled[unmet], [[1, 0], [0, 1]])
    met = np.setdiff1d(np.arange(len(content)), unmet)
    np.testing.assert_array_equal(filled[met], collaborative[met])


def test_items_of_which_nothing_is_known_stay_zero() -> None:
    content = np.array([[1, 0], [0, 0]], np.float32)
    assert fill_unseen(np.array([[1, 0], [0, 0]], np.float32), content)[1].tolist() == [0, 0]
    assert not fill_unseen(np.zeros((2, 3), np.float32), content).any()
