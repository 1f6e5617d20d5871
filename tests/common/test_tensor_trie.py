from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.item_index import ItemIndex
from common.tensor_trie import TensorTrie
from tests.common.item_index.small_index import indexes
from tests.factories import make_index


def sequences(trie: TensorTrie, user: int, users: int) -> list[tuple[int, ...]]:
    """All that a search of this user could find, by walking the trie."""
    nodes = [((), trie.roots(users)[user])]
    for depth in range(len(trie.codes)):
        grown = []
        for path, node in nodes:
            codes, children, exists = trie.children(depth, node)
            found = zip(codes[exists].tolist(), children[exists], strict=True)
            grown += [((*path, code), child) for code, child in found]
        nodes = grown  # type: ignore[assignment]
    return [path for path, _ in nodes]


def all_of(index: ItemIndex) -> list[tuple[int, ...]]:
    return sorted({tuple(sid) for sid in index.sids.tolist()})


@given(indexes, st.data())
@settings(deadline=None)
def test_under_keeps_exactly_what_begins_with_a_prefix_of_the_user(index: ItemIndex, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, index.levels - 1))
    legal = sorted({sid[:length] for sid in all_of(index)})
    of_users = data.draw(st.lists(st.lists(st.sampled_from(legal), min_size=1), min_size=1, max_size=4))
    cut = TensorTrie(index.trie).under([torch.tensor(prefixes) for prefixes in of_users])
    for user, prefixes in enumerate(of_users):
        assert sequences(cut, user, len(of_users)) == [sid for sid in all_of(index) if sid[:length] in prefixes]


def test_illegal_prefixes_are_left_out_unless_there_are_no_others() -> None:
    index = make_index(items=20)
    trie = TensorTrie(index.trie)
    legal = {sid[:2] for sid in all_of(index)}
    illegal = next([a, b] for a in range(8) for b in range(8) if (a, b) not in legal)
    one = list(min(legal))
    cut = trie.under([torch.tensor([illegal, one])])
    assert {sid[:2] for sid in sequences(cut, 0, 1)} == {tuple(one)}
    with pytest.raises(ValueError, match=r"no prefix of users \[1\] belongs to an item"):
        trie.under([torch.tensor([one]), torch.tensor([illegal])])


@pytest.mark.parametrize("prefixes", [[np.zeros((1, 3))], [np.zeros((1, 1)), np.zeros((1, 2))], [np.zeros((1, 0))], []])
def test_prefixes_have_one_length_shorter_than_a_semantic_id(prefixes: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="prefixes must have one length from 1 to 2"):
        TensorTrie(make_index().trie).under([torch.from_numpy(prefix).long() for prefix in prefixes])


def test_a_whole_trie_has_one_root_for_everybody() -> None:
    assert TensorTrie(make_index().trie).roots(3).tolist() == [0, 0, 0]


def test_no_nodes_have_no_children() -> None:
    trie = TensorTrie(make_index().trie)
    for depth, degree in enumerate(trie.degree):
        assert [x.shape for x in trie.children(depth, torch.zeros(0, 2, dtype=torch.int64))] == [(0, 2, degree)] * 3
