"""Where k-means starts: distinct points, spread out by k-means++ where that is affordable."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tokenizer_job.quantizers.nearest import squared_distance

PLUS_PLUS_LIMIT = 50_000
"""Above this many points the start is a random choice of points instead of k-means++."""


def choose_start(points: Tensor, clusters: int, generator: torch.Generator, what: str = "k-means") -> Tensor:
    """Distinct points (clusters, d) among points (N, d).

    k-means++ (Arthur and Vassilvitskii 2007): each next one is drawn with probability proportional to its squared
    distance to the nearest.

    Raises:
        ValueError: there are fewer distinct points than clusters; the message begins with ``what``.
    """
    distinct = _distinct(points)
    if len(distinct) < clusters:
        raise ValueError(
            f"{what} has {len(distinct)} distinct points for {clusters} codes: codes must be at most {len(distinct)}"
        )
    if len(points) > PLUS_PLUS_LIMIT:
        return points[distinct[torch.randperm(len(distinct), generator=generator)[:clusters]]]
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distance = squared_distance(points, points[chosen[0]])
    for _ in range(clusters - 1):
        mass = distance.cumsum(0)
        drawn = torch.rand(1, generator=generator, dtype=torch.float64) * mass[-1]
        chosen.append(min(int(torch.searchsorted(mass, drawn, right=True)), len(points) - 1))
        distance = torch.minimum(distance, squared_distance(points, points[chosen[-1]]))
    return points[chosen]


def _distinct(points: Tensor) -> Tensor:
    """The first row of each distinct point, ascending."""
    rows = np.ascontiguousarray(points.numpy() + 0.0)  # + 0.0 turns -0.0 into 0.0, which has other bytes
    _, first = np.unique(rows.view(np.dtype((np.void, rows.strides[0]))).ravel(), return_index=True)
    return torch.from_numpy(np.sort(first))
