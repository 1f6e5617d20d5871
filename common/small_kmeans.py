"""k-means of many small groups of points at once: numpy's cost of a call, paid per group, is what compression would take.

Shape legend: B groups of one batch, S points of the largest (the others are padded), K clusters at most, d of a point.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
ITERATIONS = 10


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
    doubling = np.ceil(np.log2(sizes)).astype(np.int64)  # a batch's groups differ by less than a factor of two
    for power in np.unique(doubling):
        groups = np.flatnonzero(doubling == power)
        places = np.arange(sizes[groups].max())
        inside = places < sizes[groups, None]
        rows = np.where(inside, starts[groups, None] + places, 0)
        batch = np.where(inside[..., None], points[rows], 0).astype(np.float32, copy=False)
        labels[rows[inside]] = _fit(batch, inside, sizes[groups], clusters[groups])[0][inside]
    return labels


def nearest_of_fitted(points: Floats, fitted: Floats, clusters: int) -> Ints:
    """The nearest centroid of each point, where the centroids are those of k-means of other points."""
    inside, sizes = np.ones((1, len(fitted)), np.bool_), np.array([len(fitted)])
    _, centroids, absent = _fit(fitted[None], inside, sizes, np.array([clusters]))
    nearest: Ints = _nearest(points[None], centroids, absent)[0]
    return nearest


def _fit(points: Floats, inside: npt.NDArray[np.bool_], sizes: Ints, clusters: Ints) -> tuple[Ints, Floats, Floats]:
    """Labels (B, S) of points (B, S, d), meaningless where they are not ``inside``; what `_spread_start` gives, fitted."""
    centroids, absent = _spread_start(points, sizes, clusters)
    labels = _nearest(points, centroids, absent)
    numbers = np.arange(centroids.shape[1])
    for _ in range(ITERATIONS):
        one_hot = ((labels[:, None, :] == numbers[:, None]) & inside[:, None, :]).astype(np.float32)
        counts = one_hot.sum(2, keepdims=True)
        centroids = np.where(counts > 0, one_hot @ points / np.maximum(counts, 1), centroids)
        updated = _nearest(points, centroids, absent)
        if (updated == labels)[inside].all():
            break
        labels = updated
    return updated, centroids, absent


def _nearest(points: Floats, centroids: Floats, absent: Floats) -> Ints:
    # ||x||^2 is the same for every centroid and does not move the minimum.
    scores = (centroids**2).sum(2)[:, None, :] + absent[:, None, :] - 2 * points @ centroids.transpose(0, 2, 1)
    nearest: Ints = np.argmin(scores, axis=2)
    return nearest


def _spread_start(points: Floats, sizes: Ints, clusters: Ints) -> tuple[Floats, Floats]:
    """k-means++: each next centroid is drawn with probability proportional to its squared distance to the nearest.

    Returns:
        centroids (B, K, d), and (B, K): 0, or infinity where a group has no such centroid, because it wants fewer or has no
        more distinct points.
    """
    groups = np.arange(len(points))
    draws = np.stack([_draws(size, int(clusters.max())) for size in sizes.tolist()])
    chosen = np.zeros((len(points), int(clusters.max())), np.int64)
    absent = np.full(chosen.shape, np.inf, np.float32)
    absent[:, 0] = 0
    distance = ((points - points[:, :1]) ** 2).sum(2)
    distance[np.arange(points.shape[1]) >= sizes[:, None]] = 0
    for k in range(1, chosen.shape[1]):
        more = (clusters > k) & distance.any(1)
        if not more.any():
            break
        mass = np.cumsum(distance, axis=1, dtype=np.float64)
        drawn = (mass <= draws[:, k - 1, None] * mass[:, -1:]).sum(1)
        chosen[:, k] = np.where(more, np.minimum(drawn, sizes - 1), 0)
        absent[more, k] = 0
        distance = np.minimum(distance, ((points - points[groups, chosen[:, k]][:, None]) ** 2).sum(2))
        distance[np.arange(points.shape[1]) >= sizes[:, None]] = 0
    return points[groups[:, None], chosen], absent


@lru_cache(maxsize=4096)
def _draws(size: int, count: int) -> npt.NDArray[np.float64]:
    """A group's random numbers, by its size."""
    return np.random.default_rng(size).random(count)
