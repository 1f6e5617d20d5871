"""The item index: buckets, legality, what may be built, and what changes from one version to the next."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.item_index import ItemIndex
from common.item_index.columns import ItemColumns
from common.messages import NO_ITEM
from tests.common.item_index.small_index import CODES, LEVELS, columns_of, equal, indexes, make_index


@given(indexes)
@settings(deadline=None)
def test_every_item_is_in_the_bucket_of_its_own_sid_and_in_no_other(index: ItemIndex) -> None:
    keys = index.keys(index.sids)
    for key, item in zip(keys.tolist(), index.item_ids.tolist(), strict=True):
        assert item in index.bucket(key)
    assert sum(len(index.bucket(key)) for key in set(keys.tolist())) == len(index)


@given(indexes)
@settings(deadline=None)
def test_head_item_is_the_most_popular_of_its_bucket_and_then_the_lowest_id(index: ItemIndex) -> None:
    heads = index.head_items(index.sids)
    keys = index.keys(index.sids)
    for row in range(len(index)):
        same = np.flatnonzero(keys == keys[row])
        best = min(same.tolist(), key=lambda r: (-float(index.popularity[r]), int(index.item_ids[r])))
        assert heads[row] == index.item_ids[best] == index.bucket(int(keys[row]))[0]


@given(indexes)
@settings(deadline=None)
def test_items_by_popularity_are_all_of_them_and_of_equal_ones_the_lowest_id_comes_first(index: ItemIndex) -> None:
    told = dict(zip(index.item_ids.tolist(), index.popularity.tolist(), strict=True))
    assert index.by_popularity.tolist() == sorted(told, key=lambda item: (-told[item], item))


@given(indexes)
@settings(deadline=None)
def test_legality_and_heads_of_all_possible_sids(index: ItemIndex) -> None:
    grid = np.indices((index.codes,) * index.levels).reshape(index.levels, -1).T
    legal = {tuple(sid) for sid in index.sids.tolist()}
    expected = np.array([tuple(sid) in legal for sid in grid.tolist()])
    assert (index.is_legal(grid) == expected).all()
    assert ((index.head_items(grid) != NO_ITEM) == expected).all()


def test_a_code_out_of_range_is_illegal_and_does_not_alias_another_sid() -> None:
    index = make_index(items=300)  # all 64 SIDs are legal
    assert index.is_legal([0, 1, 2])
    assert not index.is_legal([0, 0, CODES + 2])  # the same key as (0, 1, 2)
    assert not index.is_legal([-1, 3, 3])
    assert index.head_items([[0, 0, CODES + 2]]).tolist() == [NO_ITEM]


def test_bucket_of_an_illegal_key_is_empty() -> None:
    index = make_index(items=3)
    illegal = next(k for k in range(CODES**LEVELS) if k not in index.trie.leaf_keys)
    assert index.bucket(illegal).tolist() == []


def test_keys_are_radix_numbers_for_any_leading_shape() -> None:
    index = make_index()
    codes = np.array([[[1, 2, 3], [0, 0, 1]]])
    assert index.keys(codes).tolist() == [[1 * 16 + 2 * 4 + 3, 1]]


def test_rows_find_known_ids_and_mark_unknown_ones() -> None:
    index = make_index()
    assert index.rows(index.item_ids).tolist() == list(range(len(index)))
    unknown = next(i for i in range(400) if i not in index.item_ids)
    assert index.rows([[unknown, int(index.item_ids[5])], [10**12, -1]]).tolist() == [[-1, 5], [-1, -1]]
    assert index.rows(np.empty((0, 3), np.int64)).shape == (0, 3)


def test_columns_that_ascend_are_not_copied_and_others_are_sorted() -> None:
    columns = columns_of(make_index())
    index = ItemIndex.build(1, "1", CODES, **columns)
    assert all(np.shares_memory(getattr(index, name), np.asarray(column)) for name, column in columns.items())
    shuffled = np.random.default_rng(1).permutation(len(index))
    assert equal(ItemIndex.build(1, "1", CODES, **cut(columns, shuffled)), index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sids": np.full((40, 3), CODES)}, r"sids must lie in 0\.\.3, but item \d+ has \[4 4 4\]"),
        ({"item_ids": np.zeros(40)}, "item_ids must be distinct, 0 occurs more than once"),
        ({"item_ids": np.arange(-1, 39)}, "item_ids must be non-negative, got -1"),
        ({"author": np.zeros(39)}, r"author must have 1 dimension\(s\) and 40 rows, got shape \(39,\)"),
        ({"vectors": np.zeros((40, 0))}, "vectors must have"),
        (
            {"item_ids": np.arange(40), "popularity": np.where(np.arange(40) == 17, np.inf, 0)},
            "popularity .* item 17 has inf",
        ),
        (
            {"item_ids": np.arange(40), "vectors": np.where(np.eye(40), np.nan, 0)},
            r"vectors must be finite, but item 0 has \[nan",
        ),
        ({"codes": 2**22}, r"codes \*\* levels below 2\*\*63, got 4194304 and 3"),
        ({"version": 0}, "index version must be at least 1, got 0"),
        ({"colour": np.zeros(40)}, "columns of an item index are .*; got .*colour"),
    ],
)
def test_build_refuses_bad_columns(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"version": 1, "codes": CODES} | dict(columns_of(make_index())) | change
    with pytest.raises(ValueError, match=message):
        ItemIndex.build(tokenizer_version="1", **given)


@given(indexes, st.data())
@settings(deadline=None)
def test_extended_is_the_union_and_moves_no_id(index: ItemIndex, data: st.DataObject) -> None:
    columns = columns_of(index)
    is_new = np.array(data.draw(st.lists(st.booleans(), min_size=len(index), max_size=len(index))))
    if is_new.all() or not is_new.any():
        return
    before = ItemIndex.build(1, "1", index.codes, **cut(columns, ~is_new))
    after = before.extended(2, **cut(columns, np.random.default_rng(0).permutation(np.flatnonzero(is_new))))
    assert equal(after, ItemIndex.build(2, "1", index.codes, **columns))
    rows = after.rows(before.item_ids)
    np.testing.assert_array_equal(after.sids[rows], before.sids)


@given(indexes, st.data())
@settings(deadline=None)
def test_without_removes_exactly_those_items(index: ItemIndex, data: st.DataObject) -> None:
    stays = np.array(data.draw(st.lists(st.booleans(), min_size=len(index), max_size=len(index))))
    if not stays.any():
        with pytest.raises(ValueError, match="at least one item"):
            index.without(2, index.item_ids)
        return
    after = index.without(2, index.item_ids[~stays])
    assert equal(after, ItemIndex.build(2, "1", index.codes, **cut(columns_of(index), stays)))


def test_tags_of_added_items_may_be_wider_or_narrower() -> None:
    index = make_index(items=2)
    columns = columns_of(index)
    for tags in ([[7]], [[7, 8, 9, 6]]):
        new = cut(columns, np.array([0])) | {"item_ids": [500], "tags": tags}
        after = index.extended(2, **new)
        assert after.tags[2].tolist()[: len(tags[0])] == tags[0]
        assert (after.tags[2, len(tags[0]) :] == -1).all()
        np.testing.assert_array_equal(after.tags[:2, :2], index.tags)
        assert (after.tags[:2, 2:] == -1).all()


def test_a_change_that_makes_no_sense_is_refused() -> None:
    index = make_index(version=3)
    columns = columns_of(index)
    known = int(index.item_ids[0])
    with pytest.raises(ValueError, match=f"item {known} is in item index 3 already"):
        index.extended(4, **cut(columns, np.array([0])))
    new: dict[str, Any] = dict(cut(columns, np.array([0]))) | {"item_ids": [999]}
    with pytest.raises(ValueError, match="vectors of added items must be 5 wide, got 4"):
        index.extended(4, **(new | {"vectors": [[0.0] * 4]}))
    with pytest.raises(ValueError, match="sids of added items must be 3 wide, got 2"):
        index.extended(4, **(new | {"sids": [[0, 0]]}))
    with pytest.raises(ValueError, match="item 999 is not in item index 3"):
        index.without(4, [known, 999])
    with pytest.raises(ValueError, match="must be greater, got 3"):
        index.extended(3, **new)
    with pytest.raises(ValueError, match="must be greater, got 3"):
        index.without(3, [known])


def cut(columns: ItemColumns, rows: np.ndarray) -> ItemColumns:
    return {name: np.asarray(column)[rows] for name, column in columns.items()}  # type: ignore[return-value]
