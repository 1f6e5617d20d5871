"""The prefix trie against a brute-force enumeration, and SID keys against the sums they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.item_index import ItemIndex
from common.item_index.trie import group_starts, sid_keys
from tests.common.item_index.small_index import indexes


@given(indexes)
@settings(deadline=None)
def test_trie_equals_the_brute_force_set_of_prefixes(index: ItemIndex) -> None:
    sids = [tuple(sid) for sid in index.sids.tolist()]
    trie = index.trie
    nodes: list[tuple[int, ...]] = [()]
    for depth in range(index.levels):
        offsets, codes = trie.offsets[depth], trie.child_codes[depth]
        assert len(offsets) == len(nodes) + 1
        children = [(*node, code) for n, node in enumerate(nodes) for code in codes[offsets[n] : offsets[n + 1]].tolist()]
        assert children == sorted({sid[: depth + 1] for sid in sids})
        nodes = children
    assert trie.leaf_keys.tolist() == [int(index.keys(node)) for node in nodes]


@given(st.integers(2, 5), st.data())
def test_a_key_goes_back_to_its_codes(levels: int, data: st.DataObject) -> None:
    codes = data.draw(st.integers(2, int((2**63 - 1) ** (1 / levels))))
    sid = data.draw(st.lists(st.integers(0, codes - 1), min_size=levels, max_size=levels))
    key = int(sid_keys(np.array(sid), codes))
    assert key == sum(code * codes ** (levels - 1 - level) for level, code in enumerate(sid))
    assert [key // codes ** (levels - 1 - level) % codes for level in range(levels)] == sid


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64])
def test_keys_do_not_overflow_in_the_type_of_the_codes(dtype: type[np.integer]) -> None:
    sids = np.full((2, 3), 8191, dtype)
    assert sid_keys(sids, 8192).tolist() == [8192**3 - 1] * 2
    assert (sids == 8191).all()  # nothing was written to


def test_groups_of_equal_values_begin_where_the_value_changes() -> None:
    assert group_starts(np.array([3, 3, 5, 9, 9, 9])).tolist() == [0, 2, 3, 6]
    assert group_starts(np.array([3])).tolist() == [0, 1]
