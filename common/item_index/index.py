"""Semantic IDs <-> items: an immutable, versioned snapshot with item features and the prefix trie.

Shape legend: N items, K levels, T tags, d vector width; N_t is ``codes``, the codebook size of every level.
A snapshot on disk is a folder of npy files and a ``manifest.json`` that is written last and carries their checksums.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from common.messages import NO_ITEM

FORMAT = 1
MANIFEST = "manifest.json"
Ints = npt.NDArray[np.int64]
_DTYPES: dict[str, type[np.generic]] = {
    "item_ids": np.int64,
    "sids": np.int32,
    "author": np.int64,
    "tags": np.int64,
    "music": np.int64,
    "duration_ms": np.int64,
    "popularity": np.float32,
    "vectors": np.float32,
}
_TWO_DIMENSIONAL = ("sids", "tags", "vectors")


@dataclass(frozen=True, eq=False)
class Trie:
    """The legal SIDs as CSR arrays per depth; nodes of a depth are numbered in lexicographic order of their prefixes.

    The children of node n at depth l sit at positions ``offsets[l][n] <= p < offsets[l][n + 1]`` of ``child_codes[l]``
    (sorted within the node), and the child at position p is node p of depth l + 1. At the last depth the positions
    enumerate the distinct legal SIDs, whose keys are ``leaf_keys`` (ascending).
    """

    offsets: list[Ints]
    child_codes: list[npt.NDArray[np.int32]]
    leaf_keys: Ints

    @staticmethod
    def of(leaf_keys: Ints, codes: int, levels: int) -> Trie:
        """The trie of ascending distinct SID keys."""
        offsets, child_codes = [], []
        parents = np.zeros(1, np.int64)  # the root's empty prefix
        for depth in range(levels):
            prefixes = np.unique(leaf_keys // codes ** (levels - 1 - depth))
            offsets.append(np.append(np.searchsorted(prefixes, parents * codes), len(prefixes)).astype(np.int64))
            child_codes.append((prefixes % codes).astype(np.int32))
            parents = prefixes
        return Trie(offsets, child_codes, leaf_keys)


@dataclass(frozen=True, eq=False)
class ItemIndex:
    """One snapshot. Make it with `build` or `load`; its arrays are not to be written to."""

    version: int
    tokenizer_version: str
    codes: int
    item_ids: Ints  # (N,) ascending
    sids: npt.NDArray[np.int32]  # (N, K)
    author: Ints  # (N,)
    tags: Ints  # (N, T), padded with -1
    music: Ints  # (N,)
    duration_ms: Ints  # (N,)
    popularity: npt.NDArray[np.float32]  # (N,) orders the items of a bucket
    vectors: npt.NDArray[np.float32]  # (N, d)

    @staticmethod
    def build(
        version: int,
        tokenizer_version: str,
        codes: int,
        item_ids: npt.ArrayLike,
        sids: npt.ArrayLike,
        author: npt.ArrayLike,
        tags: npt.ArrayLike,
        music: npt.ArrayLike,
        duration_ms: npt.ArrayLike,
        popularity: npt.ArrayLike,
        vectors: npt.ArrayLike,
    ) -> ItemIndex:
        """A snapshot of items in any order.

        Raises:
            ValueError: a column's shape, an item id or a code is out of range (names the column).
        """
        given = (item_ids, sids, author, tags, music, duration_ms, popularity, vectors)
        columns = {name: np.asarray(c, _DTYPES[name]) for name, c in zip(_DTYPES, given, strict=True)}
        _check_shapes(columns)
        order = np.argsort(columns["item_ids"], kind="stable")
        index = ItemIndex(version, tokenizer_version, codes, **{name: c[order] for name, c in columns.items()})
        index._check_values()
        return index

    @property
    def levels(self) -> int:
        """K, the number of codes of an SID."""
        return int(self.sids.shape[1])

    def __len__(self) -> int:
        return len(self.item_ids)

    def rows(self, item_ids: npt.ArrayLike) -> Ints:
        """Row of each item id, -1 where the index does not know it. Any shape."""
        wanted = np.asarray(item_ids, np.int64)
        at = np.minimum(np.searchsorted(self.item_ids, wanted), len(self) - 1)
        return np.where(self.item_ids[at] == wanted, at, -1).astype(np.int64)

    def keys(self, codes: npt.ArrayLike) -> Ints:
        """SIDs (..., K) as one number each: s_1 N_t^(K-1) + ... + s_K. Codes must lie in 0..N_t-1."""
        radix = self.codes ** np.arange(self.levels - 1, -1, -1, dtype=np.int64)
        keys: Ints = np.asarray(codes, np.int64) @ radix
        return keys

    def is_legal(self, codes: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether some item has each SID (..., K). Out-of-range codes are illegal."""
        return self._leaves(codes) >= 0

    def head_items(self, codes: npt.ArrayLike) -> Ints:
        """The item that each SID (..., K) stands for: the most popular of its bucket, `NO_ITEM` if it is illegal."""
        leaf = self._leaves(codes)
        heads = self._ordered_items[self._bucket_starts[np.maximum(leaf, 0)]]
        return np.where(leaf >= 0, heads, NO_ITEM).astype(np.int64)

    def bucket(self, key: int) -> Ints:
        """All items of an SID key, most popular first (ties: lowest id); empty if the key is illegal."""
        start, end = (np.searchsorted(self._ordered_keys, key, side) for side in ("left", "right"))
        return self._ordered_items[start:end]

    @cached_property
    def trie(self) -> Trie:
        """The prefix trie of the legal SIDs."""
        return Trie.of(self._ordered_keys[self._bucket_starts], self.codes, self.levels)

    def _leaves(self, codes: npt.ArrayLike) -> Ints:
        """Position of each SID among the trie's leaves, -1 where it is illegal."""
        given = np.asarray(codes, np.int64)
        keys, legal = self.keys(given), self.trie.leaf_keys
        at = np.minimum(np.searchsorted(legal, keys), len(legal) - 1)
        in_range = ((given >= 0) & (given < self.codes)).all(-1)
        return np.where(in_range & (legal[at] == keys), at, -1).astype(np.int64)

    @cached_property
    def _order(self) -> Ints:
        """Rows sorted by SID key, then most popular first, then lowest id (rows ascend with ids)."""
        return np.lexsort((np.arange(len(self)), -self.popularity, self.keys(self.sids))).astype(np.int64)

    @cached_property
    def _ordered_items(self) -> Ints:
        return np.asarray(self.item_ids[self._order])

    @cached_property
    def _ordered_keys(self) -> Ints:
        return self.keys(self.sids[self._order])

    @cached_property
    def _bucket_starts(self) -> Ints:
        starts = np.flatnonzero(np.diff(self._ordered_keys, prepend=self._ordered_keys[0] - 1))
        return starts.astype(np.int64)

    def _check_values(self) -> None:
        if self.version < 1:
            raise ValueError(f"index version must be at least 1, got {self.version}")
        if self.codes < 2 or self.codes**self.levels >= 2**63:
            raise ValueError(f"codes must be at least 2 and codes ** levels below 2**63, got {self.codes} and {self.levels}")
        if self.sids.min() < 0 or self.sids.max() >= self.codes:
            raise ValueError(f"sids must lie in 0..{self.codes - 1}, got {self.sids.min()}..{self.sids.max()}")
        if self.item_ids[0] < 0 or (np.diff(self.item_ids) <= 0).any():
            raise ValueError("item_ids must be non-negative and distinct")
        if not (np.isfinite(self.popularity).all() and np.isfinite(self.vectors).all()):
            raise ValueError("popularity and vectors must be finite")

    def save(self, folder: Path) -> None:
        """Write the snapshot as ``folder``: all of it or nothing.

        Raises:
            ValueError: the folder exists already (snapshots are immutable).
        """
        if folder.exists():
            raise ValueError(f"index snapshot {folder} exists already, and snapshots are immutable")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            files = {}
            for name in _DTYPES:
                path = temporary / f"{name}.npy"
                with path.open("wb") as file:
                    np.save(file, getattr(self, name), allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
                files[path.name] = {"bytes": path.stat().st_size, "xxh3_128": _checksum(path)}
            _write_manifest(temporary / MANIFEST, self._head() | {"files": files})
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _head(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": self.version, "tokenizer_version": self.tokenizer_version, "codes": self.codes}

    @staticmethod
    def load(folder: Path, verify: bool = True) -> ItemIndex:
        """Memory-map a committed snapshot; ``verify`` reads every file once to compare its checksum.

        Raises:
            ValueError: not a committed snapshot, or a torn, changed or missing file (named).
        """
        manifest = _read_manifest(folder / MANIFEST)
        columns = {}
        for name in _DTYPES:
            path = folder / f"{name}.npy"
            _check_file(path, manifest["files"][path.name], verify)
            columns[name] = np.load(path, mmap_mode="r", allow_pickle=False)
            if columns[name].dtype != _DTYPES[name]:
                raise ValueError(f"{path} must hold {np.dtype(_DTYPES[name])}, got {columns[name].dtype}")
        _check_shapes(columns)
        index = ItemIndex(manifest["version"], manifest["tokenizer_version"], manifest["codes"], **columns)
        index._check_values()
        return index


def latest_index(folder: Path) -> Path:
    """The newest committed snapshot (``NNNNNN``) in a folder of snapshots.

    Raises:
        ValueError: there is none.
    """
    snapshots = [p for p in folder.glob("*") if re.fullmatch(r"\d{6}", p.name) and (p / MANIFEST).is_file()]
    if not snapshots:
        raise ValueError(f"{folder} holds no committed index snapshot")
    return max(snapshots, key=lambda p: p.name)


def _check_shapes(columns: dict[str, npt.NDArray[Any]]) -> None:
    items = len(columns["item_ids"])
    if not items:
        raise ValueError("an index must hold at least one item")
    for name, column in columns.items():
        dimensions = 2 if name in _TWO_DIMENSIONAL else 1
        if column.ndim != dimensions or len(column) != items or 0 in column.shape:
            raise ValueError(f"{name} must have {dimensions} dimension(s) and {items} rows, got shape {column.shape}")


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_128()
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


def _check_file(path: Path, expected: dict[str, Any], verify: bool) -> None:
    if not path.is_file():
        raise ValueError(f"index file {path} is missing")
    if path.stat().st_size != expected["bytes"]:
        raise ValueError(f"index file {path} is torn: {path.stat().st_size} bytes instead of {expected['bytes']}")
    if verify and _checksum(path) != expected["xxh3_128"]:
        raise ValueError(f"index file {path} is corrupt: its checksum differs from the manifest's")


def _write_manifest(path: Path, body: dict[str, Any]) -> None:
    text = json.dumps(body | {"xxh3_128": _body_checksum(body)}, indent=2)
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path.parent} is not a committed index snapshot: {path.name} is missing")
    try:
        body: dict[str, Any] = json.loads(path.read_bytes())
        intact = body.pop("xxh3_128") == _body_checksum(body)
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise ValueError(f"index file {path} is corrupt")
    if body["format"] != FORMAT:
        raise ValueError(f"{path}: format must be {FORMAT}, got {body['format']}")
    return body


def _body_checksum(body: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(body, sort_keys=True).encode())
