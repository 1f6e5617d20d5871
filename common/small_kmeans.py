"""k-means of many small groups of points at once: numpy's cost of a call, paid per group, is what compression would take.

A group's result depends on the group alone, whatever groups come with it: groups are padded to one of a few sizes, so that
every matrix product of a group has the same shape in any company.
Shape legend: B groups of one batch, S points of each (some padding), K clusters, d of a point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
ROUNDS = 2
"""Of Lloyd's algorithm. After a spread start more of them bring the points no nearer to their leaves' centroids."""
BATCH_POINTS = 4096
"""Points of one batch, so that it stays in a processor's cache."""
SAME = 1e-5
"""Points whose squared distance is below this share of their squared lengths count as identical: it is rounding."""


def kmeans_labels(points: Floats, sizes: Ints, clusters: Ints) -> Ints:
    """The cluster of each point among those of its group, by Lloyd's algorithm from a k-means++ start.

    Ties go to the lowest centroid. Clusters may come out empty. A function of its arguments: no global random state.

    Args:
        points: (N, d), group after group.
        sizes: points of each group, at least 1.
        clusters: of each group.
    """
    starts = np.cumsum(sizes) - sizes
    labels = np.empty(len(points), np.int64)
    for groups, padded in _batches(sizes, clusters):
        places = np.arange(padded)
        inside = places < sizes[groups, None]
        rows = np.where(inside, starts[groups, None] + places, 0)
        fitted = _fit(points[rows] * inside[..., None], inside, sizes[groups], int(clusters[groups[0]]))
        labels[rows[inside]] = _nearest(*fitted)[inside]
    return labels


def nearest_of_fitted(points: Floats, fitted: Floats, clusters: int) -> Ints:
    """The nearest centroid of each point, where the centroids are those of k-means of other points."""
    inside, sizes = np.ones((1, len(fitted)), np.bool_), np.array([len(fitted)])
    _, centroids, absent = _fit(fitted[None], inside, sizes, clusters)
    nearest: Ints = _nearest(points[None], centroids, absent)[0]
    return nearest


def _batches(sizes: Ints, clusters: Ints) -> Iterator[tuple[Ints, int]]:
    """Groups of like size that want as many clusters, and the size to which they are padded: 2^n or 3/4 of it."""
    power = 2 ** np.ceil(np.log2(sizes)).astype(np.int64)
    padded = np.where(sizes <= power * 3 // 4, np.maximum(power * 3 // 4, 1), power)
    kinds, kind = np.unique(np.stack([padded, clusters]), axis=1, return_inverse=True)
    for number, size in enumerate(kinds[0].tolist()):
        groups = np.flatnonzero(kind.ravel() == number)
        for part in np.array_split(groups, math.ceil(len(groups) * size / BATCH_POINTS)):
            if len(part):
                yield part, size


def _fit(points: Floats, inside: Bools, sizes: Ints, clusters: int) -> tuple[Floats, Floats, Floats]:
    """Points (B, S, d), their centroids (B, K, d) and (B, K): 0, or infinity where a group has no such centroid."""
    centroids, absent = _spread_start(points, inside, sizes, clusters)
    numbers = np.arange(clusters)[:, None]
    for _ in range(ROUNDS):
        members = (_nearest(points, centroids, absent)[:, None, :] == numbers) & inside[:, None, :]
        counts = members.sum(2, keepdims=True)
        means = members.astype(np.float32) @ points / np.maximum(counts, 1).astype(np.float32)
        centroids = np.where(counts > 0, means, centroids)
    return points, centroids, absent


def _nearest(points: Floats, centroids: Floats, absent: Floats) -> Ints:
    # ||x||^2 is the same for every centroid and does not move the minimum.
    offsets = 0.5 * np.einsum("bkd,bkd->bk", centroids, centroids) + absent
    nearest: Ints = np.argmin(offsets[:, None, :] - points @ centroids.transpose(0, 2, 1), axis=2)
    return nearest


def _spread_start(points: Floats, inside: Bools, sizes: Ints, clusters: int) -> tuple[Floats, Floats]:
    """k-means++: each next centroid is drawn with probability proportional to its squared distance to the nearest.

    Returns:
        centroids (B, K, d), and (B, K): 0, or infinity where a group has no more distinct points.
    """
    groups = np.arange(len(points))
    draws = np.stack([_draws(size, clusters) for size in sizes.tolist()])
    lengths = np.einsum("bsd,bsd->bs", points, points)
    chosen = np.zeros((len(points), clusters), np.int64)
    absent = np.zeros(chosen.shape, np.float32)
    distance = np.where(inside, np.float32(np.inf), np.float32(0))
    for k in range(1, clusters):
        last = chosen[:, k - 1]
        scale = lengths + lengths[groups, last, None]
        apart = scale - 2 * (points @ points[groups, last][:, :, None])[..., 0]
        distance = np.minimum(distance, np.where(apart > SAME * scale, apart, 0))
        mass = np.cumsum(distance, axis=1, dtype=np.float64)
        absent[mass[:, -1] <= 0, k] = np.inf
        drawn = (mass <= draws[:, k - 1, None] * mass[:, -1:]).sum(1)
        chosen[:, k] = np.minimum(drawn, sizes - 1)
    return points[groups[:, None], chosen], absent


@lru_cache(maxsize=4096)
def _draws(size: int, count: int) -> npt.NDArray[np.float64]:
    """A group's random numbers, by its size."""
    return np.random.default_rng(size).random(count)
