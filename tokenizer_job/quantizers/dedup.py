"""Semantic IDs of one's own for items that would share one, on a whole catalogue and for new items beside it.

Items share an SID when they are near-duplicates or codes are few; retrieval is counted per item, and only one item of a
shared SID can be retrieved at its rank. Shape legend: N items, K levels, N_t codes per level, d vector width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from tokenizer_job.quantizers.codebooks import Codes, Floats

IsTaken = Callable[[Codes], npt.NDArray[np.bool_]]
"""SIDs (n, K) -> which of them an item has."""
Dedup = Literal["none", "next_best", "append_level"]


class Encoder(Protocol):
    """The part of a quantizer that placing items needs."""

    @property
    def codes(self) -> int:
        """N_t."""

    def encode(self, vectors: Floats) -> Codes:
        """SIDs (N, K)."""

    def last_level_distances(self, vectors: Floats, sids: Codes) -> Floats:
        """Squared distances (N, N_t) to the codes of the last level, up to a constant per row."""


def next_best(quantizer: Encoder, vectors: Floats, sids: Codes) -> Codes:
    """Give items that share an SID different last codes, at the least total squared distance.

    Items of one prefix are matched one to one with the codes of the last level (a code takes ceil(n / N_t) of n items
    where a prefix has more items than codes). Prefixes without a shared SID keep their codes.
    """
    spread = sids.copy()
    for rows in _groups(sids[:, :-1]):
        if len(np.unique(sids[rows, -1])) < len(rows):
            spread[rows, -1] = _match(quantizer.last_level_distances(vectors[rows], sids[rows]))
    return spread


def append_level(sids: Codes, codes: int) -> Codes:
    """SIDs (N, K + 1) whose new last code numbers the items that share the first K, in their order (TIGER, Rajput et
    al. 2023); from the (codes + 1)-th item on numbers repeat."""
    position = np.zeros(len(sids), np.int32)
    for rows in _groups(sids):
        position[rows] = np.arange(len(rows)) % codes
    return np.column_stack([sids, position])


def place_beside(quantizer: Encoder, vectors: Floats, is_taken: IsTaken, dedup: Dedup = "next_best") -> Codes:
    """SIDs of new items beside those that have one; nobody's SID changes.

    ``next_best``: the nearest SID if it is free, else the free one with the nearest last code under the same prefix.
    ``append_level``: the nearest SID and the smallest free number. Where the prefix is full, or with ``none``, the item
    shares: the nearest SID, or the last number. Items earlier in ``vectors`` count as taken.
    """
    sids = quantizer.encode(vectors)
    if dedup == "none":
        return sids
    numbers = np.arange(quantizer.codes, dtype=np.int32)
    if dedup == "append_level":
        sids = np.column_stack([sids, np.zeros(len(sids), np.int32)])
    for rows in _groups(sids[:, :-1]):
        nearest = sids[rows]
        if len(np.unique(nearest[:, -1])) == len(rows) and not is_taken(nearest).any():
            continue
        taken = is_taken(np.column_stack([np.repeat(nearest[:1, :-1], len(numbers), 0), numbers]))
        if dedup == "append_level":
            preference, otherwise = np.tile(numbers, (len(rows), 1)), np.full(len(rows), numbers[-1])
        else:
            otherwise = nearest[:, -1]
            preference = _nearest_first(quantizer.last_level_distances(vectors[rows], nearest), otherwise)
        sids[rows, -1] = _first_free(preference, taken.copy(), otherwise)
    return sids


def _groups(keys: Codes) -> Iterator[npt.NDArray[np.int64]]:
    """The rows of each distinct key, ascending."""
    if not len(keys):
        return
    _, group = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(group.ravel()[order])) + 1)


def _match(cost: Floats) -> npt.NDArray[np.int64]:
    """The code of each item by cost (n, N_t) when a code takes at most ceil(n / N_t) items and total cost is least."""
    capacity = -(-cost.shape[0] // cost.shape[1])
    _, columns = linear_sum_assignment(np.repeat(cost.astype(np.float64), capacity, axis=1))
    return np.asarray(columns // capacity, np.int64)


def _nearest_first(distances: Floats, nearest: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Codes (n, N_t) by distance, beginning with the code that encoding gave."""
    distances[np.arange(len(nearest)), nearest] = -np.inf
    return np.argsort(distances, axis=1, kind="stable").astype(np.int32)


def _first_free(
    preference: npt.NDArray[np.int32], taken: npt.NDArray[np.bool_], otherwise: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """Each row's first code that is not taken yet, else the one in ``otherwise``; marks what it gives as taken."""
    placed = otherwise.copy()
    for row, codes in enumerate(preference):
        free = codes[~taken[codes]]
        if len(free):
            placed[row] = free[0]
            taken[free[0]] = True
    return placed
