"""The nearest centroid of each point: at the speed of a float32 matrix product, with the answer of exact arithmetic.

Float32 distances only narrow the choice down. Where a second centroid lies within their rounding error, the candidates
are compared by differences in float64. So a point's label depends on the point and the centroids alone, never on which
other points it came with, on the number of threads or on the matrix library: labels at fit are labels for ever.

Shape legend: N points, C centroids, d width; points and centroids are float32.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

DISTANCES_AT_ONCE = 1 << 20
"""4 MiB, so that distances are still in the cache when their minimum is taken."""
PAIRS_AT_ONCE = 1 << 14
UNIT = 2.0**-24
"""Relative error of one rounding to float32."""


def assign(points: Tensor, centroids: Tensor) -> Tensor:
    """Index of the nearest centroid of each point, int64 (N,); ties go to the lowest index."""
    centre = centroids.mean(0)  # distances do not depend on the origin, but their rounding error does
    moved = centroids - centre
    squares = moved.double().square().sum(1).float()
    labels = torch.empty(len(points), dtype=torch.int64)
    rows = max(1, DISTANCES_AT_ONCE // len(centroids))
    for start in range(0, len(points), rows):
        chunk = points[start : start + rows]
        row, column = _candidates(chunk - centre, moved, squares)
        labels[start : start + rows] = torch.from_numpy(_decide(chunk, centroids, row, column))
    return labels


def squared_distance(points: Tensor, to: Tensor) -> Tensor:
    """Float64 (N,); exactly zero where a point equals ``to`` (one point, or one per point)."""
    return (points.double() - to.double()).square().sum(-1)


def _candidates(points: Tensor, centroids: Tensor, squares: Tensor) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs (row, column), ascending, of every centroid that may be the nearest of its row.

    With S = |x| + |c| the float32 value of |c|^2 - 2 x.c is off by at most g S^2, g = (d + 8) u: d products and sums, the
    shift of both, |c|^2, and the last sum (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). A
    centroid competes only if it is no farther than the best one found, which bounds |c| by |x| plus that distance.
    """
    part = torch.addmm(squares, points, centroids.T, alpha=-2)
    least = part.amin(1)
    error = (points.shape[1] + 8) * UNIT
    own = points.square().sum(1)
    reach = (2 * own.sqrt() + (least + own).clamp(min=0).sqrt()) / (1 - math.sqrt(error))
    limit = least + 2 * error * reach.square()
    flat = np.flatnonzero((part <= limit.unsqueeze(1)).numpy())
    row, column = np.divmod(flat, len(centroids))
    return row, column


def _decide(
    points: Tensor, centroids: Tensor, row: npt.NDArray[np.int64], column: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The nearest of each row's candidates, by float64 differences where there is more than one."""
    first = np.flatnonzero(np.diff(row, prepend=-1))
    assert len(first) == len(points), "every point has a candidate unless it is not finite"
    labels = column[first]
    pair = np.flatnonzero(np.bincount(row)[row] > 1)
    if not len(pair):
        return labels
    row, column = row[pair], column[pair]
    distance = np.concatenate(
        [
            squared_distance(points[row[s : s + PAIRS_AT_ONCE]], centroids[column[s : s + PAIRS_AT_ONCE]]).numpy()
            for s in range(0, len(row), PAIRS_AT_ONCE)
        ]
    )
    order = np.lexsort((column, distance, row))
    best = order[np.flatnonzero(np.diff(row[order], prepend=-1))]
    labels[row[best]] = column[best]
    return labels
