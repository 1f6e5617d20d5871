"""Collaborative vectors: counts and information by hand, and items met together lie together."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from tokenizer_job.item_vectors.collaborative import collaborative_vectors, cooccurrence, embed, ppmi


def test_counts_fall_with_distance_and_stay_within_a_user() -> None:
    sequence, rows = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 2, 3])
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 2] = expected[2, 3] = 1.0
    expected[0, 2] = 0.5
    np.testing.assert_array_equal(cooccurrence(sequence, rows, 4, window=5).toarray(), expected + expected.T)
    expected[0, 2] = 0.0
    np.testing.assert_array_equal(cooccurrence(sequence, rows, 4, window=1).toarray(), expected + expected.T)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=40), st.integers(1, 6))
@settings(deadline=None)
def test_counts_equal_brute_force(events: list[tuple[int, int]], window: int) -> None:
    events.sort(key=lambda event: event[0])
    expected = np.zeros((6, 6))
    for i, (user, item) in enumerate(events):
        for distance, (other_user, other) in enumerate(events[i + 1 : i + 1 + window], start=1):
            if user == other_user and item != other:
                expected[item, other] += 1 / distance
                expected[other, item] += 1 / distance
    sequence, rows = np.array(events, np.int64).reshape(-1, 2).T
    np.testing.assert_allclose(cooccurrence(sequence, rows, 6, window).toarray(), expected)


def test_information_by_hand() -> None:
    counts = np.array([[0.0, 4.0, 0.0], [4.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    item = counts.sum(1)
    context = item**0.75 / (item**0.75).sum()
    with np.errstate(divide="ignore"):
        one_sided = np.maximum(np.log(counts / (item[:, None] * context)), 0)
    np.testing.assert_allclose(ppmi(sparse.csr_array(counts)).toarray(), (one_sided + one_sided.T) / 2)


def test_embedding_reconstructs_a_low_rank_matrix() -> None:
    factor = np.abs(np.random.default_rng(0).normal(size=(30, 3)))
    vectors = embed(sparse.csr_array(factor @ factor.T), 8)
    np.testing.assert_allclose(vectors @ vectors.T, factor @ factor.T, atol=1e-4)
    assert vectors.shape == (30, 8)


def test_items_of_one_community_lie_together_and_unmet_items_are_zero() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.integers(0, 10, 12) + 10 * (user % 3) for user in range(150)])
    vectors = collaborative_vectors(np.repeat(np.arange(150), 12), rows, items=32, width=6, window=5)
    assert not vectors[30:].any()
    unit = vectors[:30] / np.linalg.norm(vectors[:30], axis=1, keepdims=True)
    community = np.arange(30) // 10
    likeness = unit @ unit.T
    assert likeness[community[:, None] == community].min() > likeness[community[:, None] != community].max()


def test_vectors_repeat_and_no_events_give_zeros() -> None:
    rng = np.random.default_rng(1)
    sequence, rows = np.sort(rng.integers(0, 40, 500)), rng.integers(0, 25, 500)
    first, second = (collaborative_vectors(sequence, rows, 25, 8, 5) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    none = np.empty(0, np.int64)
    assert not collaborative_vectors(none, none, 5, 4, 3).any()
    assert collaborative_vectors(none, none, 1, 4, 3).shape == (1, 4)
