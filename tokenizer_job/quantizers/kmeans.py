"""Euclidean k-means (Lloyd's algorithm) that leaves no cluster empty, repeatable from its generator.

Shape legend: N points, C clusters, d width; points and centroids are float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from tokenizer_job.quantizers.nearest import assign
from tokenizer_job.quantizers.repair import fill_empty

Progress = Callable[[str], None]
REPAIR_ROUNDS = 100
PROGRESS_EVERY = 5
BLOCK = 4096
SAMPLED, EARLY_PER_CLUSTER = 4, 32
"""While centroids still travel far, every fourth point shows them the way as well as all, if those are 32 a cluster."""


def fit_kmeans(
    points: Tensor, start: Tensor, iterations: int, on_progress: Progress = lambda _: None
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from ``start`` (C, d): centroids float32 (C, d) and labels int64 (N,), every cluster in use.

    There must be at least C distinct points. Where each cluster has many, the first three fifths of the iterations look at
    every fourth point only (after nested mini-batch k-means, Newling and Fleuret 2016). The labels are exactly
    ``assign(points, centroids)``.
    """
    early = iterations * 3 // 5 if len(points) >= SAMPLED * EARLY_PER_CLUSTER * len(start) else 0
    centroids = _iterate(points[::SAMPLED].contiguous(), start, range(1, early + 1), iterations, on_progress)
    centroids = _iterate(points, centroids, range(early + 1, iterations + 1), iterations, on_progress)
    return settle(points, centroids)


def _iterate(points: Tensor, centroids: Tensor, steps: range, iterations: int, on_progress: Progress) -> Tensor:
    """Centroids after at most the given iterations; the last update is exact."""
    labels, repaired = torch.empty(0), False
    for iteration in steps:
        previous, labels = labels, assign(points, centroids)
        if not repaired and torch.equal(labels, previous):
            break
        centroids, repaired = fill_empty(points, _means(points, labels, centroids), labels)
        if iteration % PROGRESS_EVERY == 0:
            on_progress(f"iteration {iteration} of {iterations}")
    return exact_means(points, labels, centroids) if len(steps) else centroids


def settle(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Put every cluster to use: the centroids, those of empty clusters moved, and the labels they give."""
    for _ in range(REPAIR_ROUNDS):
        labels = assign(points, centroids)
        centroids, repaired = fill_empty(points, centroids, labels)
        if not repaired:
            return centroids, labels
    raise ValueError(f"k-means could not put {len(centroids)} clusters to use on points this close together: lower codes")


def _means(points: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """`exact_means`, summed in float32: five times as fast, and good enough between iterations."""
    counts = torch.bincount(labels, minlength=len(centroids))
    order = torch.argsort(labels, stable=True)
    sums = embedding_bag(order, points, counts.cumsum(0) - counts, mode="sum")
    return torch.where(counts.unsqueeze(1) > 0, sums / counts.clamp(min=1).unsqueeze(1), centroids)


def exact_means(points: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """The mean of each cluster, summed in float64, so that equal points have that very point as
    mean; an empty one keeps its centroid.
    """
    counts = torch.bincount(labels, minlength=len(centroids)).unsqueeze(1)
    sums = torch.zeros(centroids.shape, dtype=torch.float64)
    for rows in range(0, len(points), BLOCK):
        sums.index_add_(0, labels[rows : rows + BLOCK], points[rows : rows + BLOCK].double())
    return torch.where(counts > 0, sums / counts.clamp(min=1), centroids.double()).float()
