"""The item index: buckets, legality, the trie against brute force, and snapshots that are whole or refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.item_index import ItemIndex, latest_index
from common.item_index.columns import DTYPES
from common.messages import NO_ITEM

CODES, LEVELS = 4, 3


def make_index(items: int = 40, seed: int = 0, version: int = 1, codes: int = CODES, levels: int = LEVELS) -> ItemIndex:
    rng = np.random.default_rng(seed)
    return ItemIndex.build(
        version,
        "1",
        codes,
        item_ids=rng.permutation(10 * items)[:items],
        sids=rng.integers(0, codes, (items, levels)),
        author=rng.integers(0, 9, items),
        tags=rng.integers(-1, 9, (items, 2)),
        music=rng.integers(0, 9, items),
        duration_ms=rng.integers(0, 60_000, items),
        popularity=rng.integers(0, 3, items),
        vectors=rng.normal(size=(items, 5)),
    )


sizes = st.builds(make_index, st.integers(1, 60), st.integers(0, 999), codes=st.integers(2, 5), levels=st.integers(2, 4))


@given(sizes)
@settings(deadline=None)
def test_every_item_is_in_the_bucket_of_its_own_sid_and_in_no_other(index: ItemIndex) -> None:
    keys = index.keys(index.sids)
    for key, item in zip(keys.tolist(), index.item_ids.tolist(), strict=True):
        assert item in index.bucket(key)
    assert sum(len(index.bucket(key)) for key in set(keys.tolist())) == len(index)


@given(sizes)
@settings(deadline=None)
def test_head_item_is_the_most_popular_of_its_bucket_and_then_the_lowest_id(index: ItemIndex) -> None:
    heads = index.head_items(index.sids)
    keys = index.keys(index.sids)
    for row in range(len(index)):
        same = np.flatnonzero(keys == keys[row])
        best = min(same.tolist(), key=lambda r: (-float(index.popularity[r]), int(index.item_ids[r])))
        assert heads[row] == index.item_ids[best] == index.bucket(int(keys[row]))[0]


@given(sizes)
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


@given(sizes)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sids": np.full((40, 3), CODES)}, "sids must lie in 0..3"),
        ({"item_ids": np.zeros(40)}, "distinct"),
        ({"author": np.zeros(39)}, "author must have"),
        ({"vectors": np.full((40, 5), np.nan)}, "finite"),
        ({"codes": 2**22}, "below 2"),
        ({"version": 0}, "version"),
    ],
)
def test_build_refuses_bad_columns(change: dict[str, object], message: str) -> None:
    index = make_index()
    given = {"version": 1, "codes": CODES} | {name: getattr(index, name) for name in DTYPES} | change
    with pytest.raises(ValueError, match=message):
        ItemIndex.build(tokenizer_version="1", **given)


def test_a_saved_snapshot_loads_equal_and_memory_mapped(tmp_path: Path) -> None:
    index = make_index(version=7)
    index.save(tmp_path / "000007")
    loaded = ItemIndex.load(tmp_path / "000007")
    assert (loaded.version, loaded.tokenizer_version, loaded.codes) == (7, "1", CODES)
    for name in ("item_ids", "sids", "author", "tags", "music", "duration_ms", "popularity", "vectors"):
        column = getattr(loaded, name)
        assert not column.flags.writeable and not column.flags.owndata
        np.testing.assert_array_equal(column, getattr(index, name))
    np.testing.assert_array_equal(loaded.head_items(loaded.sids), index.head_items(index.sids))
    assert [p.name for p in tmp_path.iterdir()] == ["000007"]
    with pytest.raises(ValueError, match="immutable"):
        index.save(tmp_path / "000007")


FILES = sorted([*(f"{n}.npy" for n in ("item_ids", "sids", "tags", "popularity", "vectors")), "manifest.json"])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "tear", "remove"])
def test_a_damaged_snapshot_is_refused_naming_the_file(tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / "000001"
    make_index().save(folder)
    path = folder / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    elif damage == "tear":
        os.truncate(path, len(data) // 2)
    else:
        path.unlink()
    with pytest.raises(ValueError, match=name):
        ItemIndex.load(folder)


def test_latest_index_is_the_newest_committed_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no committed index"):
        latest_index(tmp_path)
    for version in (1, 12, 9):
        make_index(version=version).save(tmp_path / f"{version:06d}")
    (tmp_path / "000099").mkdir()  # never committed
    (tmp_path / ".000100-left-over").mkdir()
    assert latest_index(tmp_path).name == "000012"
