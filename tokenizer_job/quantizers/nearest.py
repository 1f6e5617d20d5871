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

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
DISTANCES_AT_ONCE = 1 << 21
"""8 MiB, so that distances are still in the cache when their minimum is taken."""
PAIRS_AT_ONCE = 1 << 14
UNIT = 2.0**-24
"""Relative error of one rounding to float32."""


def assign(points: Tensor, centroids: Tensor) -> Tensor:
    """Index of the nearest centroid of each point, int64 (N,); ties go to the lowest index."""
    wanted, codebook = points.numpy(), centroids.numpy()
    centre = codebook.mean(0)  # distances do not depend on the origin, but their rounding error does
    moved = codebook - centre
    squares = (moved.astype(np.float64) ** 2).sum(1).astype(np.float32)
    columns = np.ascontiguousarray(-2 * moved.T)
    labels = np.empty(len(wanted), np.int64)
    rows = max(1, min(len(wanted), DISTANCES_AT_ONCE // len(codebook)))
    scratch = np.empty((rows, len(codebook)), np.float32)
    for start in range(0, len(wanted), rows):
        chunk = wanted[start : start + rows]
        near = chunk - centre
        # |x - c|^2 without |x|^2, which is the same for every centroid.
        part = np.matmul(near, columns, out=scratch[: len(chunk)])  # numpy's product, faster than torch's on AMD
        part += squares
        nearest, row, column = _narrow(part, near)
        if len(row):
            best = _nearest_pairs(chunk, codebook, row, column)
            nearest[row[best]] = column[best]
        labels[start : start + rows] = nearest
    return torch.from_numpy(labels)


def squared_distance(points: Floats, to: Floats) -> npt.NDArray[np.float64]:
    """(N,); exactly zero where a point equals ``to`` (one point, or one per point)."""
    difference = points.astype(np.float64) - to
    return np.asarray(np.einsum("nd,nd->n", difference, difference))


def _narrow(part: Floats, points: Floats) -> tuple[Ints, Ints, Ints]:
    """Each row's least entry, and pairs (row, column), ascending, of all centroids that may be the nearest of a row where
    that is not certain. Destroys ``part``.

    With S = |x| + |c| an entry is off by at most g S^2, g = (d + 8) u: d products and sums, the shift of both vectors,
    |c|^2, and the last sum (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). A centroid competes
    only if it is no farther than the best one found, which bounds |c| by |x| plus that distance.
    """
    row = np.arange(len(part))
    nearest = part.argmin(1)
    least = part[row, nearest]
    error = (points.shape[1] + 8) * UNIT
    own = np.einsum("nd,nd->n", points, points)
    reach = (2 * np.sqrt(own) + np.sqrt(np.maximum(least + own, 0))) / (1 - math.sqrt(error))
    limit = least + 2 * error * reach**2
    part[row, nearest] = np.inf
    unsure = np.flatnonzero(part[row, part.argmin(1)] <= limit)
    part[unsure, nearest[unsure]] = least[unsure]
    pair, column = np.nonzero(part[unsure] <= limit[unsure, None])
    return nearest, unsure[pair], column


def _nearest_pairs(points: Floats, centroids: Floats, row: Ints, column: Ints) -> Ints:
    """For each row that occurs, the position of its pair with the least distance by float64 differences."""
    blocks = [slice(start, start + PAIRS_AT_ONCE) for start in range(0, len(row), PAIRS_AT_ONCE)]
    distance = np.concatenate([((points[row[at]].astype(np.float64) - centroids[column[at]]) ** 2).sum(1) for at in blocks])
    order = np.lexsort((column, distance, row))
    return order[np.flatnonzero(np.diff(row[order], prepend=-1))]
