"""Compression of a long history into leaves of similar items (OneRec technical report, lifelong pathway).

A node of D events with D > M is split by k-means into k = max(2, floor(cbrt(D))) children, recursively; each leaf is
represented by the event nearest to its centroid. M = clamp(ceil(D / target_length), 8, 64) for the whole history.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
LEAF_RANGE = (8, 64)
ITERATIONS = 10
FIT_POINTS_PER_CENTROID = 256
"""Larger nodes fit their centroids on an evenly spaced subset of this many events per centroid."""


def compress(vectors: Floats, time_ms: Ints, target_length: int) -> tuple[Ints, Ints]:
    """Group D events by their item vectors (D, d): the leaf of each event (D,) and each leaf's representative event.

    Leaves are numbered by mean time, oldest first; no leaf has more than M events. A node that k-means cannot split
    (identical vectors) is cut into chunks by time. A function of its arguments: no global random state.

    Raises:
        ValueError: ``target_length`` below 1, or columns of different lengths.
    """
    if target_length < 1:
        raise ValueError(f"target_length must be at least 1, got {target_length}")
    if len(vectors) != len(time_ms):
        raise ValueError(f"vectors and time_ms must have one length, got {len(vectors)} and {len(time_ms)}")
    if not len(vectors):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    leaves = _split(np.asarray(vectors, np.float32), time_ms, leaf_limit(len(vectors), target_length))
    leaves.sort(key=lambda leaf: (time_ms[leaf].mean(), leaf[0]))
    sizes = np.array([len(leaf) for leaf in leaves])
    members = np.concatenate(leaves)
    leaf_of = np.empty(len(members), np.int64)
    leaf_of[members] = np.repeat(np.arange(len(leaves)), sizes)
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


def _split(vectors: Floats, time_ms: Ints, limit: int) -> list[Ints]:
    """The events of each leaf, ascending within a leaf."""
    leaves: list[Ints] = []
    open_nodes = [np.arange(len(vectors), dtype=np.int64)]
    while open_nodes:
        node = open_nodes.pop()
        if len(node) <= limit:
            leaves.append(node)
            continue
        labels = _kmeans_labels(vectors[node], max(2, cube_root(len(node))))
        children = [node[labels == label] for label in np.unique(labels)]
        if len(children) > 1:
            open_nodes.extend(children)
        else:
            by_time = node[np.argsort(time_ms[node], kind="stable")]
            leaves.extend(np.sort(chunk) for chunk in np.array_split(by_time, -(-len(node) // limit)))
    return leaves


def _kmeans_labels(points: Floats, clusters: int) -> Ints:
    """Lloyd's algorithm from a k-means++ start; ties go to the lowest centroid. Clusters may come out empty."""
    fit = points[:: max(1, len(points) // (FIT_POINTS_PER_CENTROID * clusters))]
    centroids = _spread_start(fit, clusters)
    labels = _nearest(fit, centroids)
    for _ in range(ITERATIONS):
        one_hot = (labels[None, :] == np.arange(len(centroids))[:, None]).astype(np.float32)
        counts = one_hot.sum(1, keepdims=True)
        centroids = np.where(counts > 0, one_hot @ fit / np.maximum(counts, 1), centroids)
        updated = _nearest(fit, centroids)
        if (updated == labels).all():
            break
        labels = updated
    return _nearest(points, centroids)


def _nearest(points: Floats, centroids: Floats) -> Ints:
    # ||x||^2 is the same for every centroid and does not move the minimum.
    nearest: Ints = np.argmin((centroids**2).sum(1) - 2 * points @ centroids.T, axis=1)
    return nearest


def _spread_start(points: Floats, clusters: int) -> Floats:
    """k-means++: each next centroid is drawn with probability proportional to its squared distance to the nearest."""
    rng = np.random.default_rng(len(points))
    chosen = [0]
    distance = ((points - points[0]) ** 2).sum(1)
    while len(chosen) < clusters and distance.any():
        mass = np.cumsum(distance, dtype=np.float64)
        drawn = int(np.searchsorted(mass, rng.random() * mass[-1], side="right"))
        chosen.append(min(drawn, len(points) - 1))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
    return points[chosen]


def _nearest_to_centroid(points: Floats, sizes: npt.NDArray[np.int64]) -> Ints:
    """Of consecutive groups of points, the position of the one nearest to its group's mean (ties: the first)."""
    starts = np.cumsum(sizes) - sizes
    points = points.astype(np.float64)
    means = np.add.reduceat(points, starts) / sizes[:, None]
    distance = ((points - np.repeat(means, sizes, axis=0)) ** 2).sum(1)
    by_distance = np.lexsort((distance, np.repeat(np.arange(len(sizes)), sizes)))
    return np.asarray(by_distance[starts], np.int64)
