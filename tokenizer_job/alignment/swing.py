"""Swing similarity of items (Yang et al. 2020): two items are alike where pairs of users who share little else share both.

    s(i, j) = sum over unordered user pairs {u, v} who both clicked i and j of  w_u w_v / (alpha + |I_u and I_v|)

with I_u the items of u and w_u = 1 / sqrt(|I_u|); u = v is never counted. As matrices: one row per user pair that
shares at least two items, holding these items; then s = rows^T diag(weights) rows without its diagonal.
Shape legend: E clicks, U users, N items.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import sparse

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
CHUNK = 2_000_000
"""Bound on the matrix entries that are worked on at a time."""


def swing(
    user: Ints,
    row: Ints,
    items: int,
    alpha: float = 1.0,
    users_per_item: int = 500,
    clicks_per_user: int = 1000,
    seed: int = 0,
) -> sparse.csr_array:
    """Symmetric float32 similarities (N, N) with an empty diagonal.

    A click is a ``user`` and an item's ``row``, both (E,); repeated clicks count once. Users with more than
    ``clicks_per_user`` items are dropped, then items keep the clicks of ``users_per_item`` sampled users; everything else
    is computed on the clicks that are left.
    """
    clicks = _clicks(user, row, items, users_per_item, clicks_per_user, seed)
    weight = 1.0 / np.sqrt(np.maximum(np.diff(clicks.indptr), 1))
    similarity = sparse.csr_array((items, items), dtype=np.float64)
    for first, second, overlap in _user_pairs(clicks):
        shared = clicks[first].multiply(clicks[second]).tocsr()
        scaled = sparse.diags_array(weight[first] * weight[second] / (alpha + overlap)) @ shared
        similarity += shared.T @ scaled
    similarity.setdiag(0)
    similarity.eliminate_zeros()
    similarity.sort_indices()
    return sparse.csr_array(similarity.astype(np.float32))


def _clicks(user: Ints, row: Ints, items: int, users_per_item: int, clicks_per_user: int, seed: int) -> sparse.csr_array:
    """(U, N) of ones where a user clicked an item, thinned to the two bounds."""
    users, user = np.unique(user, return_inverse=True)
    key = np.unique(user * items + row)
    user, row = key // items, key % items
    kept = np.bincount(user, minlength=len(users))[user] <= clicks_per_user
    user, row = user[kept], row[kept]
    order = np.lexsort((np.random.default_rng(seed).random(len(row)), row))
    place = np.arange(len(row)) - np.searchsorted(row[order], row[order])
    order = order[place < users_per_item]
    return sparse.csr_array((np.ones(len(order)), (user[order], row[order])), shape=(len(users), items))


def _user_pairs(clicks: sparse.csr_array) -> Iterator[tuple[Ints, Ints, Floats]]:
    """All pairs u < v of users who share at least two items, and how many they share; so many at a time as memory holds."""
    by_item = sparse.csr_array(clicks.T)
    length = np.diff(clicks.indptr)
    for users in _ranges(clicks @ clicks.sum(axis=0)):
        shared = (clicks[users] @ by_item).tocoo()
        first, second = shared.row + users.start, shared.col
        chosen = (second > first) & (shared.data > 1.5)
        first, second, overlap = first[chosen], second[chosen], shared.data[chosen]
        for some in _ranges(length[first] + length[second]):
            yield first[some], second[some], overlap[some]


def _ranges(sizes: npt.NDArray[np.number]) -> Iterator[slice]:
    """Consecutive ranges whose sizes add up to at most `CHUNK`, or of one element."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + CHUNK, "right")))
        yield slice(start, stop)
        start = stop
