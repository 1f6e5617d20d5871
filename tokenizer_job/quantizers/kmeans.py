"""Euclidean k-means that leaves no cluster empty, repeatable from its generator.

Shape legend: N points, C clusters, d width. Points and centroids are float32; distances and means are accumulated in
float64, so that distinct points stay distinct and the labels at fit are the labels of every later assignment.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 65_536
PLUS_PLUS_LIMIT = 50_000
"""Above this many points the start is a random choice of points instead of k-means++."""
REPAIR_ROUNDS = 100


def assign(points: Tensor, centroids: Tensor) -> Tensor:
    """Index of the nearest centroid of each point, int64 (N,); ties go to the lowest index."""
    wide = centroids.double()
    squares = (wide**2).sum(1)
    # ||x||^2 - 2 x.c + ||c||^2 without its first term, which is the same for every centroid.
    chunks = [torch.argmin(squares - 2 * chunk.double() @ wide.T, dim=1) for chunk in torch.split(points, CHUNK)]
    return torch.cat(chunks)


def fit_kmeans(points: Tensor, start: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from ``start`` (C, d): centroids float32 (C, d) and labels int64 (N,), every cluster in use.

    There must be at least C distinct points. The labels are exactly ``assign(points, centroids)``.
    """
    centroids = start.clone()
    labels = assign(points, centroids)
    for _ in range(iterations):
        centroids, repaired = _fill_empty(points, _means(points, labels, centroids), labels)
        updated = assign(points, centroids)
        if not repaired and torch.equal(updated, labels):
            break
        labels = updated
    for _ in range(REPAIR_ROUNDS):
        centroids, repaired = _fill_empty(points, centroids, labels)
        if not repaired:
            return centroids, labels
        labels = assign(points, centroids)
    raise ValueError(f"k-means could not put {len(centroids)} clusters to use on points this close together: lower codes")


def choose_start(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++ centroids: each next one is drawn with probability proportional to its squared distance to the nearest."""
    if len(points) > PLUS_PLUS_LIMIT:
        return points[torch.randperm(len(points), generator=generator)[:clusters]]
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distance = _squared_distance(points, points[chosen[0]])
    for _ in range(clusters - 1):
        mass = distance.cumsum(0)
        drawn = torch.rand(1, generator=generator, dtype=torch.float64) * mass[-1]
        chosen.append(min(int(torch.searchsorted(mass, drawn, right=True)), len(points) - 1))
        distance = torch.minimum(distance, _squared_distance(points, points[chosen[-1]]))
    return points[chosen]


def _squared_distance(points: Tensor, to: Tensor) -> Tensor:
    """Float64 (N,); exactly zero where a point equals ``to`` (one point, or one per point)."""
    return ((points - to).double() ** 2).sum(1)


def _means(points: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """The mean of each cluster; an empty one keeps its centroid."""
    counts = torch.bincount(labels, minlength=len(centroids)).unsqueeze(1)
    sums = torch.zeros(centroids.shape, dtype=torch.float64).index_add_(0, labels, points.double())
    return torch.where(counts > 0, sums / counts.clamp(min=1), centroids.double()).float()


def _fill_empty(points: Tensor, centroids: Tensor, labels: Tensor) -> tuple[Tensor, bool]:
    """Move each empty cluster's centroid to the farthest point of the cluster with the largest inertia."""
    empty = torch.nonzero(torch.bincount(labels, minlength=len(centroids)) == 0).squeeze(1)
    if not len(empty):
        return centroids, False
    centroids, labels = centroids.clone(), labels.clone()
    distance = _squared_distance(points, centroids[labels])
    for cluster in empty:
        inertia = torch.bincount(labels, distance, minlength=len(centroids))
        farthest = torch.where(labels == inertia.argmax(), distance, -1.0).argmax()
        centroids[cluster] = points[farthest]
        nearer = _squared_distance(points, points[farthest])
        labels = torch.where(nearer < distance, cluster, labels)
        distance = torch.minimum(distance, nearer)  # so that the next empty cluster takes a distinct point
    return centroids, True
