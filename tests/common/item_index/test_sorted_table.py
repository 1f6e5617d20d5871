"""Looking up in a table that counts as larger than the cache, against a dictionary."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.item_index import sorted_table
from common.item_index.sorted_table import BLOCK, IN_CACHE, SortedTable

values = st.sets(st.integers(-3, 600), min_size=1).map(sorted)


@pytest.mark.parametrize("in_cache", [0, IN_CACHE])
@given(values=values, wanted=st.lists(st.integers(-5, 700), max_size=50))
def test_every_value_is_found_where_it_is_and_no_other(in_cache: int, values: list[int], wanted: list[int]) -> None:
    with mock.patch.object(sorted_table, "IN_CACHE", in_cache):
        table = SortedTable(np.array(values))
    position = {value: k for k, value in enumerate(values)}
    assert table.find(values).tolist() == list(range(len(values)))
    assert table.find(wanted).tolist() == [position.get(value, -1) for value in wanted]


@pytest.mark.parametrize("items", [IN_CACHE + 1, IN_CACHE + BLOCK - 1, IN_CACHE + BLOCK])
def test_a_large_table_keeps_the_shape_of_what_is_wanted(items: int) -> None:
    table = SortedTable(3 * np.arange(items))
    wanted = np.random.default_rng(0).integers(0, 3 * items, (7, 5, 2))
    expected = np.where(wanted % 3 == 0, wanted // 3, -1)
    np.testing.assert_array_equal(table.find(wanted), expected)
    assert table.find(wanted[0, :0]).shape == (0, 2)
    assert table.find(3 * items - 3).tolist() == items - 1
    assert table.find([-1, 3 * items, 2**62]).tolist() == [-1, -1, -1]
