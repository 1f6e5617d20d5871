"""Compression of a long history into leaves of similar items (OneRec technical report, lifelong pathway).

A node of D events with D > M is split by k-means into k = max(2, floor(cbrt(D))) children, recursively; each leaf is
represented by the event nearest to its centroid. M = clamp(ceil(D / target_length), 8, 64) for the whole history.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from common.small_kmeans import kmeans_labels, nearest_of_fitted

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
LEAF_RANGE = (8, 64)
BLOCK_POINTS = 2048
"""Points that are worked on at once, so that they stay in a processor's cache."""
FIT_POINTS_PER_CENTROID = 256
"""Larger nodes fit their centroids on an evenly spaced subset of this many events per centroid."""


def compress(vectors: Floats, time_ms: Ints, target_length: int, sizes: Ints | None = None) -> tuple[Ints, Ints]:
    """Group D events by their item vectors (D, d): the leaf of each event (D,) and each leaf's representative event.

    Leaves are numbered by mean time, oldest first; no leaf has more than M events. A node that k-means cannot split
    (identical vectors) is cut into chunks by time. A function of its arguments: no global random state.

    Args:
        vectors: of the events' items.
        time_ms: of the events.
        target_length: leaves that a long history is compressed to.
        sizes: of several histories, one after the other; each comes out as if it were alone, its leaves after those of
            the histories before it.

    Raises:
        ValueError: ``target_length`` below 1, or columns of different lengths.
    """
    if target_length < 1:
        raise ValueError(f"target_length must be at least 1, got {target_length}")
    if len(vectors) != len(time_ms):
        raise ValueError(f"vectors and time_ms must have one length, got {len(vectors)} and {len(time_ms)}")
    if not len(vectors):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    histories = np.array([len(vectors)]) if sizes is None else sizes[sizes > 0]
    members, sizes = _split(np.asarray(vectors, np.float32), time_ms, histories, target_length)
    starts = np.cumsum(sizes) - sizes
    history = np.searchsorted(np.cumsum(histories), members[starts], side="right")
    order = np.lexsort((members[starts], np.add.reduceat(time_ms[members], starts) / sizes, history))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    by_leaf = np.argsort(np.repeat(rank, sizes), kind="stable")
    members, sizes = members[by_leaf], sizes[order]
    leaf_of = np.empty(len(members), np.int64)
    leaf_of[members] = np.repeat(np.arange(len(sizes)), sizes)
    return leaf_of, members[_nearest_to_centroid(vectors[members], sizes)]


def leaf_limit(events: int, target_length: int) -> int:
    """M, the largest number of events in a leaf."""
    smallest, largest = LEAF_RANGE
    return min(max(-(-events // target_length), smallest), largest)


def cube_root(number: int) -> int:
    """floor(cbrt(number)) in exact integer arithmetic (64 ** (1 / 3) is 3.99… in floating point)."""
    root = round(math.cbrt(number))
    while root**3 > number:
        root -= 1
    while (root + 1) ** 3 <= number:
        root += 1
    return root


def _split(vectors: Floats, time_ms: Ints, histories: Ints, target_length: int) -> tuple[Ints, Ints]:
    """The events of all leaves, leaf after leaf and ascending within one, and the size of each.

    Every history begins as one node; all nodes of a level are split together.
    """
    members, sizes = np.arange(len(vectors), dtype=np.int64), histories
    limit_of = np.repeat([leaf_limit(size, target_length) for size in histories.tolist()], histories)
    leaves, leaf_sizes = [], []
    while len(members):
        small = sizes <= limit_of[members[np.cumsum(sizes) - sizes]]
        inside = np.repeat(small, sizes)
        leaves.append(members[inside])
        leaf_sizes.append(sizes[small])
        members, sizes = members[~inside], sizes[~small]
        if len(members):
            members, sizes, whole = _children(vectors, members, sizes)
            chunks = [chunk for node in whole for chunk in _chunks(node, time_ms, int(limit_of[node[0]]))]
            leaves += chunks
            leaf_sizes.append(np.array([len(chunk) for chunk in chunks], np.int64))
    return np.concatenate(leaves), np.concatenate(leaf_sizes)


def _children(vectors: Floats, members: Ints, sizes: Ints) -> tuple[Ints, Ints, list[Ints]]:
    """Events and sizes of the nodes' children, and the nodes that k-means could not split."""
    kinds, kind = np.unique(sizes, return_inverse=True)
    clusters = np.array([max(2, cube_root(size)) for size in kinds.tolist()])[kind]
    node = np.repeat(np.arange(len(sizes)), sizes)
    key = node * clusters.max() + _labels(vectors, members, sizes, clusters)
    order = np.argsort(key, kind="stable")
    members, key = members[order], key[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    sizes_of_children = np.diff(starts, append=len(key))
    only = np.bincount(key[starts] // clusters.max(), minlength=len(sizes)) == 1
    unsplit = only[key[starts] // clusters.max()]
    whole = [members[start : start + size] for start, size in zip(starts[unsplit], sizes_of_children[unsplit], strict=True)]
    return members[~np.repeat(unsplit, sizes_of_children)], sizes_of_children[~unsplit], whole


def _labels(vectors: Floats, members: Ints, sizes: Ints, clusters: Ints) -> Ints:
    """The cluster of each member within its node."""
    few = np.maximum(1, sizes // (FIT_POINTS_PER_CENTROID * clusters)) == 1
    inside = np.repeat(few, sizes)
    labels = np.empty(len(members), np.int64)
    if few.any():
        labels[inside] = kmeans_labels(vectors[members[inside]], sizes[few], clusters[few])
    starts = np.cumsum(sizes) - sizes
    for large in np.flatnonzero(~few):
        points = vectors[members[starts[large] : starts[large] + sizes[large]]]
        step = len(points) // (FIT_POINTS_PER_CENTROID * clusters[large])
        labels[starts[large] : starts[large] + sizes[large]] = nearest_of_fitted(points, points[::step], clusters[large])
    return labels


def _chunks(node: Ints, time_ms: Ints, limit: int) -> list[Ints]:
    """A node cut by time into leaves, ascending within one."""
    by_time = node[np.argsort(time_ms[node], kind="stable")]
    return [np.sort(chunk) for chunk in np.array_split(by_time, -(-len(node) // limit))]


def _nearest_to_centroid(points: Floats, sizes: Ints) -> Ints:
    """Of consecutive groups of points, the position of the one nearest to its group's mean (ties: the first)."""
    starts = np.cumsum(sizes) - sizes
    distance = np.empty(len(points))
    for groups in np.array_split(np.arange(len(sizes)), -(-len(points) // BLOCK_POINTS)):
        if len(groups):
            first, end = starts[groups[0]], starts[groups[-1]] + sizes[groups[-1]]
            block = points[first:end].astype(np.float64)
            block -= np.repeat(np.add.reduceat(block, starts[groups] - first) / sizes[groups, None], sizes[groups], axis=0)
            distance[first:end] = np.einsum("nd,nd->n", block, block)
    by_distance = np.lexsort((distance, np.repeat(np.arange(len(sizes)), sizes)))
    return np.asarray(by_distance[starts], np.int64)
