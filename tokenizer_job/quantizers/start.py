"""Where k-means starts: distinct points, spread out by k-means++."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SAMPLE, SAMPLE_PER_CLUSTER = 20_000, 16
"""k-means++ reads all candidates once per cluster: a random sample of this many, or this many per cluster, is enough."""


def choose_start(points: Tensor, clusters: int, generator: torch.Generator, what: str = "k-means") -> Tensor:
    """Distinct points (clusters, d) among points (N, d).

    k-means++ (Arthur and Vassilvitskii 2007): each next one is drawn with probability proportional to its squared
    distance to the nearest.

    Raises:
        ValueError: there are fewer distinct points than clusters; the message begins with ``what``.
    """
    points = points[_distinct(points)]
    if len(points) < clusters:
        raise ValueError(
            f"{what} has {len(points)} distinct points for {clusters} codes: codes must be at most {len(points)}"
        )
    sample = max(SAMPLE, SAMPLE_PER_CLUSTER * clusters)
    if len(points) > sample:
        points = points[torch.randperm(len(points), generator=generator)[:sample]]
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distance = _squared_distance(points, chosen[0])
    for _ in range(clusters - 1):
        mass = distance.cumsum(0, dtype=torch.float64)
        drawn = torch.rand(1, generator=generator, dtype=torch.float64) * mass[-1]
        chosen.append(min(int(torch.searchsorted(mass, drawn, right=True)), len(points) - 1))
        distance = torch.minimum(distance, _squared_distance(points, chosen[-1]))
    return points[chosen]


def _squared_distance(points: Tensor, row: int) -> Tensor:
    """Of every point to one of them: float32 (N,), zero for itself."""
    return (points - points[row]).square_().sum(1)


def _distinct(points: Tensor) -> Tensor:
    """The first row of each distinct point, ascending."""
    rows = np.ascontiguousarray(points.numpy() + 0.0)  # + 0.0 turns -0.0 into 0.0, which has other bytes
    _, first = np.unique(rows.view(np.dtype((np.void, rows.strides[0]))).ravel(), return_index=True)
    return torch.from_numpy(np.sort(first))
