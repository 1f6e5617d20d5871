"""Swing: the closed form, a plain loop as the oracle, and its bounds."""

from __future__ import annotations

from itertools import combinations
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_job.alignment.swing import swing

Ints = npt.NDArray[np.int64]
CLICKS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 7)), max_size=45)


def columns(clicks: list[tuple[int, int]]) -> tuple[Ints, Ints]:
    user, row = np.array(clicks, np.int64).reshape(-1, 2).T
    return user, row


def plain(clicks: list[tuple[int, int]], items: int, alpha: float) -> npt.NDArray[np.float64]:
    """The sum as it is written, over item pairs and unordered user pairs."""
    of_user = {user: {row for u, row in clicks if u == user} for user, _ in clicks}
    out = np.zeros((items, items))
    for (u, items_u), (v, items_v) in combinations(of_user.items(), 2):
        del u, v
        weight = (len(items_u) * len(items_v)) ** -0.5 / (alpha + len(items_u & items_v))
        for i, j in combinations(sorted(items_u & items_v), 2):
            out[i, j] += weight
            out[j, i] += weight
    return out


def test_two_users_of_two_items() -> None:
    similarity = swing(*columns([(0, 0), (0, 1), (1, 0), (1, 1)]), items=2).toarray()
    np.testing.assert_allclose(similarity, [[0, 0.5 / 3], [0.5 / 3, 0]], rtol=1e-6)


def test_a_user_is_no_pair_with_itself() -> None:
    """However often one user clicked two items, another user is needed."""
    assert swing(*columns([(0, 0), (0, 1)] * 5), items=2).nnz == 0


@given(CLICKS, st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([1, 7, 1000]))
@settings(deadline=None)
def test_equals_a_plain_loop_whatever_the_chunks(clicks: list[tuple[int, int]], alpha: float, chunk: int) -> None:
    with patch("tokenizer_job.alignment.swing.CHUNK", chunk):
        similarity = swing(*columns(clicks), items=8, alpha=alpha)
    np.testing.assert_allclose(similarity.toarray(), plain(clicks, 8, alpha), rtol=1e-6)
    assert (similarity.diagonal() == 0).all()


def test_very_active_users_are_dropped() -> None:
    clicks = [(user, row) for user in range(3) for row in range(3)]
    crawler = [(9, row) for row in range(4)]
    with_crawler = swing(*columns(clicks + crawler), items=4, clicks_per_user=3)
    np.testing.assert_array_equal(with_crawler.toarray(), swing(*columns(clicks), items=4).toarray())


def test_items_keep_a_seeded_sample_of_their_users() -> None:
    clicks = [(user, row) for user in range(20) for row in (0, 1 + user % 2)]
    few = swing(*columns(clicks), items=3, users_per_item=12, seed=1)
    np.testing.assert_array_equal(few.toarray(), swing(*columns(clicks), items=3, users_per_item=12, seed=1).toarray())
    assert not np.array_equal(few.toarray(), swing(*columns(clicks), items=3, users_per_item=12, seed=2).toarray())
    # Item 0 keeps 12 of its 20 users; of k of them who share another item, each pair counts 1/2 / 3 or less.
    assert 0 < few.toarray()[0].sum() < swing(*columns(clicks), items=3).toarray()[0].sum()


@pytest.mark.parametrize("items", [0, 3])
def test_no_clicks_give_no_similarity(items: int) -> None:
    none = np.empty(0, np.int64)
    assert swing(none, none, items).shape == (items, items)
    assert swing(none, none, items).nnz == 0
