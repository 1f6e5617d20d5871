"""Item pairs: neighbours above the percentile, the most alike of the latest events, and what a batch holds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from tokenizer_job.alignment.pairs import Pairs, item_pairs, item_to_item, nearest, user_to_item
from tokenizer_job.events import TrainingEvents

Ints = npt.NDArray[np.int64]
NONE = np.empty((0, 2), np.int64)


def alike(items: int, **scores: float) -> sparse.csr_array:
    """A symmetric similarity from entries like ``_0_3=0.5``."""
    dense = np.zeros((items, items), np.float32)
    for name, score in scores.items():
        left, right = (int(part) for part in name.strip("_").split("_"))
        dense[left, right] = dense[right, left] = score
    return sparse.csr_array(dense)


def random_similarity(items: int, seed: int) -> sparse.csr_array:
    rng = np.random.default_rng(seed)
    upper = np.triu(np.round(rng.random((items, items)), 1) * (rng.random((items, items)) < 0.5), 1).astype(np.float32)
    return sparse.csr_array(upper + upper.T)


def test_neighbours_are_best_first_and_ties_go_to_the_lower_row() -> None:
    neighbours, scores = nearest(alike(5, _0_1=0.2, _0_3=0.5, _0_4=0.5), 2)
    np.testing.assert_array_equal(neighbours, [[3, 4], [0, -1], [-1, -1], [0, -1], [0, -1]])
    np.testing.assert_allclose(scores[0], [0.5, 0.5])
    assert np.isneginf(scores[2]).all()


def test_item_to_item_needs_the_percentile() -> None:
    similarity = alike(6, _0_1=0.1, _0_2=0.2, _0_3=0.3, _0_4=0.4, _0_5=0.5)
    assert {tuple(pair) for pair in item_to_item(similarity, k=2, percentile=60).tolist()} == {
        (0, 5), (0, 4), (4, 0), (5, 0)
    }  # fmt: skip
    assert len(item_to_item(similarity, k=1, percentile=0)) == 6
    assert item_to_item(alike(4)).shape == (0, 2)


def test_user_to_item_takes_the_most_alike_of_the_latest_events_before() -> None:
    similarity = alike(5, _0_3=0.9, _1_3=0.5, _2_3=0.5)
    user, row = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 1, 2, 3, 3, 4])
    assert user_to_item(user, row, similarity).tolist() == [[3, 0]]
    assert user_to_item(user, row, similarity, last=2).tolist() == [[3, 2]]  # as alike as 1, but later


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=30), st.integers(1, 6), st.integers(0, 9))
@settings(deadline=None)
def test_user_to_item_equals_a_plain_loop(events: list[tuple[int, int]], last: int, seed: int) -> None:
    events.sort(key=lambda event: event[0])
    similarity = random_similarity(6, seed)
    dense, expected = similarity.toarray(), []
    for at, (user, item) in enumerate(events):
        before = [other for u, other in events[:at] if u == user][-last:][::-1]
        best = max(before, key=lambda other: dense[item, other], default=item)
        if dense[item, best] > 0:
            expected.append([item, best])
    user_column, row = np.array(events, np.int64).reshape(-1, 2).T
    assert user_to_item(user_column, row, similarity, last).tolist() == expected


def test_pairs_of_events_count_positive_ones_only_and_never_twice() -> None:
    rng = np.random.default_rng(0)
    user, row = np.sort(rng.integers(0, 60, 600)), rng.integers(0, 30, 600)
    events = TrainingEvents(user, row, np.zeros(600, np.int64), rng.random(600) < 0.6)
    pairs = item_pairs(events, 31)
    kept = events.positive
    ignored = TrainingEvents(user[kept], row[kept], events.day[kept], events.positive[kept])
    for one, other in zip(_sources(pairs), _sources(item_pairs(ignored, 31)), strict=True):
        np.testing.assert_array_equal(one, other)
        assert len(one)
        assert len(one) == len({frozenset(pair) for pair in one.tolist()})
        assert (one[:, 0] != one[:, 1]).all()
    assert pairs.known(31).toarray()[30].sum() == 0


def test_no_events_give_no_pairs() -> None:
    none = np.empty(0, np.int64)
    assert len(item_pairs(TrainingEvents(none, none, none, np.empty(0, np.bool_)), 4)) == 0


def test_a_batch_takes_half_of_each_source_and_tells_each_items_share() -> None:
    pairs = Pairs(np.array([[0, 1], [1, 2]]), np.array([[3, 4]]))
    drawn = pairs.draw(np.random.default_rng(0), 9)
    assert (drawn < 3).all(1).sum() == 4
    assert (drawn[4:] == [3, 4]).all()
    np.testing.assert_allclose(pairs.share(6), [1 / 8, 2 / 8, 1 / 8, 1 / 4, 1 / 4, 0])
    for only in (Pairs(pairs.user_to_item, NONE), Pairs(NONE, pairs.item_to_item)):
        assert only.draw(np.random.default_rng(0), 9).shape == (9, 2)
        assert only.share(6).sum() == pytest.approx(1)


def test_pairs_among_allowed_items_and_what_is_known() -> None:
    pairs = Pairs(np.array([[0, 1], [1, 2]]), np.array([[2, 0]]))
    allowed = pairs.among(np.array([True, True, False]))
    assert allowed.user_to_item.tolist() == [[0, 1]]
    assert len(allowed) == 1
    np.testing.assert_array_equal(allowed.known(3).toarray(), [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(pairs.known(3).toarray(), ~np.eye(3, dtype=bool))


def _sources(pairs: Pairs) -> tuple[Ints, Ints]:
    return pairs.user_to_item, pairs.item_to_item


@pytest.mark.parametrize("seed", [0, 1])
def test_a_draw_is_a_function_of_its_generator(seed: int) -> None:
    pairs = Pairs(np.arange(20).reshape(-1, 2), np.arange(20, 30).reshape(-1, 2))
    first, second = (pairs.draw(np.random.default_rng(seed), 8) for _ in range(2))
    np.testing.assert_array_equal(first, second)
