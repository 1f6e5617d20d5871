from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import Item
from tokenizer_job.quality.prefixes import item_categories, prefix_groups, prefix_purity

Rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from(["", "a", "b", "c"])), min_size=1, max_size=40
)


@given(Rows)
def test_purity_rises_with_depth_from_the_largest_category_on(rows: list[tuple[int, int, str]]) -> None:
    sids = np.array([row[:2] for row in rows], np.int32)
    figures = prefix_purity(sids, [row[2] for row in rows])
    if figures is None:
        assert not any(row[2] for row in rows)
        return
    for values in (figures.purity, figures.shuffled):
        assert figures.largest_category <= values[0] <= values[1] <= 1.0
    assert figures.without_category == sum(not row[2] for row in rows)


@given(Rows)
def test_groups_are_the_distinct_prefixes_in_order(rows: list[tuple[int, int, str]]) -> None:
    sids = np.array([row[:2] for row in rows], np.int32)
    for depth, group in enumerate(prefix_groups(sids), 1):
        assert np.array_equal(group, np.unique(sids[:, :depth], axis=0, return_inverse=True)[1].ravel())


def test_purity_by_hand() -> None:
    sids = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 0]], np.int32)
    figures = prefix_purity(sids, ["a", "a", "b", "b", "a"])
    assert figures is not None
    assert figures.purity == pytest.approx([3 / 5, 4 / 5])  # prefix 0: two of three; prefix 1: one of two
    assert (figures.largest_category, figures.categories) == (0.6, 2)


def test_prefixes_that_mean_something_beat_shuffled_categories() -> None:
    rng = np.random.default_rng(0)
    sids = rng.integers(0, 8, (2000, 2)).astype(np.int32)
    meant = prefix_purity(sids, [f"category {code}" for code in sids[:, 0]])
    meaningless = prefix_purity(sids, [f"category {code}" for code in rng.integers(0, 8, 2000)])
    assert meant is not None
    assert meaningless is not None
    assert meant.purity[0] == 1.0
    assert meant.shuffled[0] < 0.25
    assert abs(meaningless.purity[0] - meaningless.shuffled[0]) < 0.03


def test_a_tag_stands_in_for_a_missing_category() -> None:
    items = [Item(item_id=1, category="Soap", tags=[3]), Item(item_id=2, tags=[3, 9]), Item(item_id=3)]
    assert item_categories(items) == ["Soap", "tag 9", ""]
