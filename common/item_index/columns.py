"""The columns of an item index: their types, their checks, and how they are sorted, cut and joined.

Shape legend: N items, K levels, T tags, d vector width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

CHUNK = 1 << 16
"""Rows looked at together, so that checking a column needs little memory beside it."""
DTYPES: dict[str, type[np.generic]] = {
    "item_ids": np.int64,
    "sids": np.int32,
    "author": np.int64,
    "tags": np.int64,
    "music": np.int64,
    "duration_ms": np.int64,
    "publish_ms": np.int64,
    "popularity": np.float32,
    "vectors": np.float32,
}
_TWO_DIMENSIONAL = ("sids", "tags", "vectors")
Columns = dict[str, npt.NDArray[Any]]
Flags = npt.NDArray[np.bool_]


class ItemColumns(TypedDict):
    """What is known of N items, in any order."""

    item_ids: npt.ArrayLike  # (N,)
    sids: npt.ArrayLike  # (N, K)
    author: npt.ArrayLike  # (N,)
    tags: npt.ArrayLike  # (N, T), padded with -1
    music: npt.ArrayLike  # (N,)
    duration_ms: npt.ArrayLike  # (N,)
    publish_ms: npt.ArrayLike  # (N,) unix ms, 0 where it is not known
    popularity: npt.ArrayLike  # (N,)
    vectors: npt.ArrayLike  # (N, d)


def checked_columns(given: ItemColumns, codes: int) -> Columns:
    """The columns by ascending item id. Columns of the right type that ascend already are not copied.

    Raises:
        ValueError: a column is missing or has another shape than the rest; an item id is negative or occurs twice; a code
            lies outside 0..codes-1; a popularity or a vector is not finite. Names column and item.
    """
    if given.keys() != DTYPES.keys():
        raise ValueError(f"the columns of an item index are {', '.join(DTYPES)}; got {', '.join(given)}")
    columns = {name: np.asarray(column, DTYPES[name]) for name, column in given.items()}
    _check_shapes(columns)
    ids = columns["item_ids"]
    if (ids[1:] < ids[:-1]).any():
        columns = take(columns, np.argsort(ids, kind="stable"))
    _check_values(columns, codes)
    return columns


def take(columns: Columns, rows: npt.NDArray[Any]) -> Columns:
    """Some rows of every column, by their numbers or by a mask."""
    return {name: column[rows] for name, column in columns.items()}


def merged(first: Columns, second: Columns) -> Columns:
    """The rows of both, which have no item in common, by ascending item id; tags are padded to the wider of the two.

    Raises:
        ValueError: the SIDs' or the vectors' widths differ.
    """
    for name in ("sids", "vectors"):
        if first[name].shape[1] != second[name].shape[1]:
            raise ValueError(f"{name} of added items must be {first[name].shape[1]} wide, got {second[name].shape[1]}")
    is_second = np.zeros(len(first["item_ids"]) + len(second["item_ids"]), bool)
    is_second[np.searchsorted(first["item_ids"], second["item_ids"]) + np.arange(len(second["item_ids"]))] = True
    tags = max(first["tags"].shape[1], second["tags"].shape[1])
    first, second = ({**columns, "tags": _padded(columns["tags"], tags)} for columns in (first, second))
    out = {}
    for name, column in first.items():
        out[name] = np.empty((len(is_second), *column.shape[1:]), column.dtype)
        out[name][~is_second], out[name][is_second] = column, second[name]
    return out


def _padded(tags: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    return np.pad(tags, ((0, 0), (0, width - tags.shape[1])), constant_values=-1)


def _check_shapes(columns: Columns) -> None:
    items = len(columns["item_ids"]) if columns["item_ids"].ndim else 0
    if not items:
        raise ValueError("an index must hold at least one item")
    for name, column in columns.items():
        dimensions = 2 if name in _TWO_DIMENSIONAL else 1
        if column.ndim != dimensions or len(column) != items or 0 in column.shape:
            raise ValueError(f"{name} must have {dimensions} dimension(s) and {items} rows, got shape {column.shape}")


def _check_values(columns: Columns, codes: int) -> None:
    ids, levels = columns["item_ids"], columns["sids"].shape[1]
    if codes < 2 or codes**levels >= 2**63:
        raise ValueError(f"codes must be at least 2 and codes ** levels below 2**63, got {codes} and {levels}")
    if ids[0] < 0:
        raise ValueError(f"item_ids must be non-negative, got {ids[0]}")
    repeated = ids[1:] == ids[:-1]
    if repeated.any():
        raise ValueError(f"item_ids must be distinct, {ids[int(np.argmax(repeated))]} occurs more than once")
    _check_rows(columns, "sids", f"lie in 0..{codes - 1}", lambda sids: (sids >= 0) & (sids < codes))
    _check_rows(columns, "popularity", "be finite", np.isfinite)
    _check_rows(columns, "vectors", "be finite", np.isfinite)


def _check_rows(columns: Columns, name: str, demand: str, fits: Callable[[npt.NDArray[Any]], Flags]) -> None:
    column = columns[name]
    for start in range(0, len(column), CHUNK):
        fitting = fits(column[start : start + CHUNK])
        if not fitting.all():
            row = start + int(np.argmin(fitting.reshape(len(fitting), -1).all(1)))
            raise ValueError(f"{name} must {demand}, but item {columns['item_ids'][row]} has {column[row]}")
