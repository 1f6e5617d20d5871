"""One snapshot of the item index: what is known of every item, and the way from semantic IDs to items and back.

Shape legend: N items, K levels, T tags, d vector width, L distinct SIDs; N_t is ``codes``, the codebook size of every level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from common.item_index.columns import DTYPES, Columns, ItemColumns, checked_columns, merged, take
from common.item_index.snapshot import map_snapshot, verify_snapshot, write_snapshot
from common.item_index.sorted_table import SortedTable
from common.item_index.trie import Ints, Trie, group_starts, sid_keys
from common.messages import NO_ITEM

PAGE_BYTES = 4096


@dataclass(frozen=True, eq=False)
class ItemIndex:
    """An immutable snapshot. Make it with `build` or `load`; its arrays are not to be written to."""

    version: int
    tokenizer_version: str
    codes: int
    item_ids: Ints  # (N,) ascending
    sids: npt.NDArray[np.int32]  # (N, K)
    author: Ints  # (N,)
    tags: Ints  # (N, T), padded with -1
    music: Ints  # (N,)
    duration_ms: Ints  # (N,)
    publish_ms: Ints  # (N,) unix ms, 0 where it is not known
    popularity: npt.NDArray[np.float32]  # (N,) orders the items of a bucket
    vectors: npt.NDArray[np.float32]  # (N, d)
    bucket_items: Ints  # (N,) item ids by SID key, then most popular first, then lowest id
    bucket_starts: Ints  # (L + 1,) where each bucket begins in bucket_items; buckets are the trie's leaves
    trie: Trie

    @staticmethod
    def build(version: int, tokenizer_version: str, codes: int, **columns: Unpack[ItemColumns]) -> ItemIndex:
        """A snapshot of items in any order. Columns that ascend by item id and have the right types are not copied.

        Raises:
            ValueError: the version is below 1, or a column's shape or value is out of range (names column and item).
        """
        if version < 1:
            raise ValueError(f"index version must be at least 1, got {version}")
        return _derived(version, tokenizer_version, codes, checked_columns(columns, codes))

    def extended(self, version: int, **columns: Unpack[ItemColumns]) -> ItemIndex:
        """The snapshot with new items: what `build` gives for the union. Nothing of a known item changes.

        Raises:
            ValueError: the version is not newer, a column is out of range, or an item is known already (named).
        """
        self._check_newer(version)
        new = checked_columns(columns, self.codes)
        known = self.rows(new["item_ids"]) >= 0
        if known.any():
            raise ValueError(f"item {new['item_ids'][int(np.argmax(known))]} is in item index {self.version} already")
        return _derived(version, self.tokenizer_version, self.codes, merged(self._columns(), new))

    def without(self, version: int, item_ids: npt.ArrayLike) -> ItemIndex:
        """The snapshot without some items. Nothing of the others changes.

        Raises:
            ValueError: the version is not newer, an item is not known (named), or none would be left.
        """
        self._check_newer(version)
        gone = np.asarray(item_ids, np.int64).ravel()
        rows = self.rows(gone)
        if (rows < 0).any():
            raise ValueError(f"item {gone[int(np.argmin(rows))]} is not in item index {self.version}")
        stays = np.ones(len(self), bool)
        stays[rows] = False
        if not stays.any():
            raise ValueError("an index must hold at least one item")
        return _derived(version, self.tokenizer_version, self.codes, take(self._columns(), stays))

    @property
    def levels(self) -> int:
        """K, the number of codes of an SID."""
        return int(self.sids.shape[1])

    def __len__(self) -> int:
        return len(self.item_ids)

    def rows(self, item_ids: npt.ArrayLike) -> Ints:
        """Row of each item id, -1 where the index does not know it. Any shape."""
        return self._ids.find(item_ids)

    def keys(self, sids: npt.ArrayLike) -> Ints:
        """SIDs (..., K) as one number each: s_1 N_t^(K-1) + ... + s_K. Codes must lie in 0..N_t-1."""
        return sid_keys(np.asarray(sids), self.codes)

    def leaves(self, sids: npt.ArrayLike) -> Ints:
        """Number of each SID (..., K) among the trie's leaves, -1 where it is illegal. Out-of-range codes are illegal."""
        given = np.asarray(sids)
        in_range = np.ones(given.shape[:-1], bool)
        for level in range(self.levels):
            in_range &= (given[..., level] >= 0) & (given[..., level] < self.codes)
        return self._leaf_keys.find(np.where(in_range, self.keys(given), -1))

    def is_legal(self, sids: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether some item has each SID (..., K). Out-of-range codes are illegal."""
        return self.leaves(sids) >= 0

    def head_items(self, sids: npt.ArrayLike) -> Ints:
        """The item that each SID (..., K) stands for: the most popular of its bucket, `NO_ITEM` if it is illegal."""
        leaves = self.leaves(sids)
        heads = self.bucket_items[self.bucket_starts[np.maximum(leaves, 0)]]
        return np.where(leaves >= 0, heads, NO_ITEM)

    def items_of(self, sids: npt.ArrayLike) -> tuple[Ints, Ints]:
        """All items of legal SIDs (B, K), SID after SID, of each the most popular first; and the row in 0..B-1 of each."""
        leaves = self.leaves(sids)
        starts, ends = self.bucket_starts[np.maximum(leaves, 0)], self.bucket_starts[np.maximum(leaves, 0) + 1]
        sizes = np.where(leaves >= 0, ends - starts, 0)
        row = np.repeat(np.arange(len(leaves)), sizes)
        inside = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return np.asarray(self.bucket_items[starts[row] + inside]), row

    def bucket(self, key: int) -> Ints:
        """All items of an SID key, most popular first (ties: lowest id); empty if the key is illegal."""
        leaf = int(self._leaf_keys.find(key))
        start, end = self.bucket_starts[leaf : leaf + 2] if leaf >= 0 else (0, 0)
        return self.bucket_items[start:end]

    @cached_property
    def by_popularity(self) -> Ints:
        """All item ids, the most popular first (ties: lowest id); sorted at first use, which takes 1.7 s for 10 million."""
        return self.item_ids[np.argsort(-self.popularity, kind="stable")]

    def save(self, folder: Path, note: dict[str, Any] | None = None) -> None:
        """Write the snapshot as ``folder``, all of it or nothing, with a JSON note of the writer's own (see `read_note`).

        Raises:
            ValueError: the folder exists already (snapshots are immutable), or the note is no JSON.
        """
        head = {"version": self.version, "tokenizer_version": self.tokenizer_version, "codes": self.codes}
        arrays = self._columns() | {"bucket_items": self.bucket_items, "bucket_starts": self.bucket_starts}
        for depth in range(self.levels):
            arrays[f"trie_offsets_{depth}"] = self.trie.offsets[depth]
            arrays[f"trie_codes_{depth}"] = self.trie.child_codes[depth]
        write_snapshot(folder, head, arrays | {"leaf_keys": self.trie.leaf_keys}, note or {})

    @staticmethod
    def load(folder: Path, verify: Callable[[Path], None] = verify_snapshot) -> ItemIndex:
        """Memory-map a committed snapshot after verifying it; nothing is computed.

        Raises:
            ValueError: not a committed snapshot, another format, or a torn, changed or missing file (named).
        """
        verify(folder)
        manifest, arrays = map_snapshot(folder)
        levels = range(arrays["sids"].shape[1])
        trie = Trie(
            [arrays[f"trie_offsets_{depth}"] for depth in levels],
            [arrays[f"trie_codes_{depth}"] for depth in levels],
            arrays["leaf_keys"],
        )
        columns = {name: arrays[name] for name in (*DTYPES, "bucket_items", "bucket_starts")}
        return ItemIndex(manifest["version"], manifest["tokenizer_version"], manifest["codes"], **columns, trie=trie)

    def warm_up(self) -> None:
        """Prepare the tables and touch every page that a lookup may need, so that the first lookups wait for nothing."""
        self.rows(self.item_ids[:1])
        self.head_items(self.sids[:1])
        for array in (self.item_ids, self.trie.leaf_keys, self.bucket_starts, self.bucket_items):
            array[:: PAGE_BYTES // array.itemsize].max()

    @cached_property
    def _ids(self) -> SortedTable:
        return SortedTable(self.item_ids)

    @cached_property
    def _leaf_keys(self) -> SortedTable:
        return SortedTable(self.trie.leaf_keys)

    def _columns(self) -> Columns:
        return {name: getattr(self, name) for name in DTYPES}

    def _check_newer(self, version: int) -> None:
        if version <= self.version:
            raise ValueError(f"the version after item index {self.version} must be greater, got {version}")


def _derived(version: int, tokenizer_version: str, codes: int, columns: Columns) -> ItemIndex:
    """The index of checked columns in ascending order of their item ids."""
    sids = columns["sids"]
    keys = sid_keys(sids, codes)
    order = np.lexsort((-columns["popularity"], keys))  # stable, and rows ascend with ids: ties go to the lowest id
    keys = keys[order]
    starts = group_starts(keys)
    trie = Trie.of(keys[starts[:-1]], codes, sids.shape[1])
    return ItemIndex(
        version,
        tokenizer_version,
        codes,
        **columns,
        bucket_items=columns["item_ids"][order],
        bucket_starts=starts,
        trie=trie,
    )
