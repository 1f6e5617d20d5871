"""Balanced residual k-means (OneRec 2025, algorithm 1): at every level all codes have the same number of items.

Shape legend: N points, C clusters, d width. The balance holds on the items that were fitted; others get their nearest
codes. Both methods keep the best assignment that they saw, by total squared distance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tokenizer_job.quantizers.codebooks import Codes, Floats, ResidualCodebooks
from tokenizer_job.quantizers.kmeans import Progress, exact_means
from tokenizer_job.quantizers.rq_kmeans import fit_levels

Labels = npt.NDArray[np.int64]
Assign = Callable[[Tensor, Tensor, Labels, Labels], Labels]
"""(points, centroids, sizes (C,), order of clusters (C,)) -> labels (N,) with those sizes."""
ITERATIONS = 100
CLUSTERS_AT_ONCE = 64
MINCOST_LIMIT = 4000
"""``mincost`` solves an N x N assignment in every iteration."""
PROGRESS_EVERY = 10


def fit_balanced(
    vectors: Floats,
    codes: int,
    levels: int,
    method: Literal["capacity", "mincost"],
    seed: int,
    on_progress: Progress = lambda _: None,
) -> tuple[ResidualCodebooks, Codes]:
    """Codebooks and the balanced SIDs (N, K): the sizes of two codes of a level differ by at most one.

    Raises:
        ValueError: a vector is not finite, a level has fewer distinct residuals than codes, or too many items for mincost.
    """
    if method == "mincost" and len(vectors) > MINCOST_LIMIT:
        raise ValueError(
            f"tokenizer.balanced_method=mincost takes at most {MINCOST_LIMIT} items, got {len(vectors)}: use capacity"
        )
    assign = _by_cost if method == "mincost" else _by_capacity

    def cluster(points: Tensor, start: Tensor, generator: torch.Generator, progress: Progress) -> tuple[Tensor, Tensor]:
        centre = points.mean(0)  # distances do not depend on the origin, but their rounding error does
        labels = _iterate(points - centre, start - centre, generator, assign, progress)
        return exact_means(points, labels, start), labels

    codebooks, sids = fit_levels(vectors, codes, levels, seed, cluster, on_progress=on_progress)
    return ResidualCodebooks(codebooks, "balanced"), sids


def _iterate(points: Tensor, centroids: Tensor, generator: torch.Generator, assign: Assign, on_progress: Progress) -> Tensor:
    """Assign and average by turns until the labels repeat; not a descent method, so the best labels seen are returned."""
    sizes = np.full(len(centroids), len(points) // len(centroids))
    sizes[: len(points) % len(centroids)] += 1
    best, most, labels = torch.empty(0), -np.inf, torch.empty(0)
    for iteration in range(1, ITERATIONS + 1):
        order = torch.randperm(len(centroids), generator=generator).numpy()
        previous, labels = labels, torch.from_numpy(assign(points, centroids, sizes, order))
        if torch.equal(labels, previous):
            break
        centroids = exact_means(points, labels, centroids)
        # sum |x - c|^2 = sum |x|^2 - sum n_c |c|^2: the least distance is the largest second term.
        explained = float((torch.from_numpy(sizes) * centroids.double().square().sum(1)).sum())
        if explained > most:
            best, most = labels, explained
        if iteration % PROGRESS_EVERY == 0:
            on_progress(f"iteration {iteration} of at most {ITERATIONS}")
    return best


def _by_capacity(points: Tensor, centroids: Tensor, sizes: Labels, order: Labels) -> Labels:
    """Clusters take the nearest points that are left, one after the other in the given order."""
    labels = np.full(len(points), -1)
    squares = points.square().sum(1)
    for clusters in np.split(order, range(CLUSTERS_AT_ONCE, len(order), CLUSTERS_AT_ONCE)):
        rows = np.flatnonzero(labels < 0)
        distance = torch.addmm(squares[rows], centroids[clusters], points[rows].T, alpha=-2).numpy()
        for own, cluster in zip(distance, clusters, strict=True):
            nearest = np.argpartition(own, sizes[cluster] - 1)[: sizes[cluster]]
            labels[rows[nearest]] = cluster
            distance[:, nearest] = np.inf
    return labels


def _by_cost(points: Tensor, centroids: Tensor, sizes: Labels, order: Labels) -> Labels:
    """The assignment of least total squared distance; which cluster has the extra point is not part of the choice."""
    del order
    wide = centroids.double()
    cost = (wide.square().sum(1) - 2 * points.double() @ wide.T).numpy()
    _, slots = linear_sum_assignment(np.repeat(cost, sizes, axis=1))
    return np.repeat(np.arange(len(sizes)), sizes)[slots]
