"""Compressed lifelong histories of the users of a batch, and the newest ones of other batches, kept.

A user's history before the day of a request is the same for all requests of that day. What is not kept is compressed for all
users of a batch at once. Shape legend: N events, L leaves, T tags of a leaf.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from common.item_index import ItemIndex
from common.lifelong import Floats, Ints, compress

LEAF_TAGS = 8
CACHED_HISTORIES = 2048
Piece = tuple[Ints, Ints, Ints, Floats]
"""Of one history: leaf of each event, representative event, tags and tag weights of each leaf."""


@dataclass(frozen=True, slots=True)
class Leaves:
    """The leaves of some histories, one after the other, a history's oldest leaf first; events are numbered across them."""

    sizes: Ints  # leaves of each history
    leaf_of: Ints  # (N,)
    representative: Ints  # (L,) event that stands for a leaf
    tags: Ints  # (L, T), -1 where there are fewer
    tag_weight: Floats  # (L, T), rows sum to 1, or 0 where no tag is known


class LeafCache:
    """Compresses histories of one item index's items. Safe to call from several threads."""

    def __init__(self, index: ItemIndex, length: int) -> None:
        """``length``: leaves to which a long history is compressed."""
        self._index, self._length = index, length
        self._kept: OrderedDict[tuple[bytes, bytes], Piece] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, rows: Ints, time_ms: Ints, sizes: Ints) -> Leaves:
        """The leaves of histories that lie one after the other: item rows (N,), times (N,), events of each history.

        A history's leaves do not depend on the others.
        """
        cuts = np.cumsum(sizes)[:-1]
        histories = list(zip(np.split(rows, cuts), np.split(time_ms, cuts), strict=True))
        keys = [(items.tobytes(), times.tobytes()) for items, times in histories]
        with self._lock:
            found = {key: self._kept[key] for key in keys if key in self._kept}
        missing = {key: history for key, history in zip(keys, histories, strict=True) if key not in found}
        found |= zip(missing, self._compressed(list(missing.values())), strict=True)
        with self._lock:
            for key in keys:
                self._kept[key] = found[key]
                self._kept.move_to_end(key)
            while len(self._kept) > CACHED_HISTORIES:
                self._kept.popitem(last=False)
        return _joined([found[key] for key in keys])

    def _compressed(self, histories: list[tuple[Ints, Ints]]) -> list[Piece]:
        if not histories:
            return []
        rows, times = (np.concatenate(column) for column in zip(*histories, strict=True))
        sizes = np.array([len(items) for items, _ in histories])
        leaf_of, representative = compress(self._index.vectors[rows], times, self._length, sizes)
        tags, weight = leaf_tags(self._index.tags[rows], leaf_of, len(representative))
        first_event = np.cumsum(sizes) - sizes
        leaves = np.bincount(np.searchsorted(first_event + sizes, representative, side="right"), minlength=len(sizes))
        first_leaf = np.cumsum(leaves) - leaves
        columns = (
            np.split(leaf_of - np.repeat(first_leaf, sizes), first_event[1:]),
            np.split(representative - np.repeat(first_event, leaves), first_leaf[1:]),
            np.split(tags, first_leaf[1:]),
            np.split(weight, first_leaf[1:]),
        )
        return list(zip(*columns, strict=True))


def _joined(pieces: list[Piece]) -> Leaves:
    events = np.array([len(leaf_of) for leaf_of, *_ in pieces])
    sizes = np.array([len(representative) for _, representative, *_ in pieces])
    leaf_of, representative, tags, weight = (np.concatenate(column) for column in zip(*pieces, strict=True))
    leaf_of = leaf_of + np.repeat(np.cumsum(sizes) - sizes, events)
    return Leaves(sizes, leaf_of, representative + np.repeat(np.cumsum(events) - events, sizes), tags, weight)


def leaf_tags(tags: Ints, leaf_of: Ints, leaves: int) -> tuple[Ints, Floats]:
    """The mean over each leaf of its events' tag distributions, kept to its `LEAF_TAGS` heaviest tags."""
    out = np.full((leaves, LEAF_TAGS), -1, np.int64)
    weight = np.zeros((leaves, LEAF_TAGS), np.float32)
    event, column = np.nonzero(tags >= 0)
    share = 1.0 / np.maximum((tags >= 0).sum(1), 1)[event]
    named = tags[event, column].astype(np.int64)
    span = int(named.max(initial=0)) + 1
    pairs, inverse = np.unique(leaf_of[event] * span + named, return_inverse=True)
    leaf, tag = np.divmod(pairs, span)
    mass = np.bincount(inverse, share, len(pairs))
    order = np.lexsort((tag, -mass, leaf))
    leaf, tag, mass = leaf[order], tag[order], mass[order]
    rank = np.arange(len(leaf)) - np.searchsorted(leaf, leaf)
    kept = rank < LEAF_TAGS
    out[leaf[kept], rank[kept]] = tag[kept]
    weight[leaf[kept], rank[kept]] = mass[kept]
    return out, weight / np.maximum(weight.sum(1, keepdims=True), 1e-9)
