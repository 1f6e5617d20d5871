"""Where k-means starts: distinct points, spread out by k-means++."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tokenizer_job.quantizers.nearest import Floats, Ints

SAMPLE_PER_CLUSTER = 64
"""Of more points than this per cluster, a random sample is enough to start from."""
BLOCK = 1024
ROUNDS = 64
"""Points are read once per round: beyond 64 clusters, several are drawn in a round (as in k-means||)."""


def choose_start(points: Tensor, clusters: int, generator: torch.Generator, what: str = "k-means") -> Tensor:
    """Distinct points (clusters, d) among points (N, d).

    k-means++ (Arthur and Vassilvitskii 2007): each next one is drawn with probability proportional to its squared
    distance to the nearest so far; of many clusters, several at a time (Bahmani et al. 2012).

    Raises:
        ValueError: there are fewer distinct points than clusters; the message begins with ``what``.
    """
    points = points[_distinct(points)]
    if len(points) < clusters:
        raise ValueError(
            f"{what} has {len(points)} distinct points for {clusters} codes: codes must be at most {len(points)}"
        )
    sample = torch.randperm(len(points), generator=generator)[: SAMPLE_PER_CLUSTER * clusters]
    points = points[sample]
    moved = points.numpy() - points.mean(0).numpy()  # distances do not depend on the origin, but their rounding error does
    squares = np.einsum("nd,nd->n", moved, moved)
    chosen = new = np.zeros(1, np.int64)  # the first of a random order
    distance = np.full(len(moved), np.inf, np.float32)
    while len(chosen) < clusters:
        np.minimum(distance, _squared_distance(moved, squares, new), out=distance)
        mass = distance.cumsum(dtype=np.float64)
        draws = min(max(1, clusters // ROUNDS), clusters - len(chosen))
        drawn = torch.rand(draws, generator=generator, dtype=torch.float64).numpy() * mass[-1]
        new = np.unique(np.minimum(np.searchsorted(mass, drawn, side="right"), len(moved) - 1))
        chosen = np.concatenate([chosen, new])
    return points[chosen]


def _squared_distance(points: Floats, squares: Floats, chosen: Ints) -> Floats:
    """Of every point to the nearest of the chosen ones (N,), zero for those."""
    part = squares[chosen, None] - 2 * points[chosen] @ points.T
    distance: Floats = np.maximum(part.min(0) + squares, 0)
    distance[chosen] = 0
    return distance


def _distinct(points: Tensor) -> Tensor:
    """One row of each distinct point, ascending, by a hash of its bytes (two that collide count as one)."""
    words = (points.numpy() + 0.0).view(np.uint32)  # + 0.0 turns -0.0 into 0.0, which has other bytes
    factors = np.random.default_rng(0).integers(1, 1 << 63, points.shape[1], np.uint64)
    keys = np.concatenate([(words[at : at + BLOCK] * factors).sum(1) for at in range(0, len(words), BLOCK)])
    return torch.from_numpy(np.sort(np.unique(keys, return_index=True)[1]))
