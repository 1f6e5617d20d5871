"""Collaborative item vectors: items that the same users meet close together lie close together.

Co-occurrence counts within a window (a pair at distance k counts 1 / k) -> positive pointwise mutual information ->
truncated SVD, vectors U sqrt(S) (Levy & Goldberg 2014; the context counts are raised to 0.75 as they suggest).
Shape legend: N items, E events, d vector width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import svds

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
CONTEXT_POWER = 0.75


def collaborative_vectors(sequence: Ints, rows: Ints, items: int, width: int, window: int) -> Floats:
    """Vectors (N, d) from E events: ``sequence`` names each event's user (ascending), ``rows`` its item in 0..N-1.

    Events of one user must be in the order in which they happened. Items without any co-occurrence get zeros.
    """
    return embed(ppmi(cooccurrence(sequence, rows, items, window)), width)


def cooccurrence(sequence: Ints, rows: Ints, items: int, window: int) -> sparse.csr_array:
    """Symmetric (N, N) counts of different items at most ``window`` positions apart, each pair weighted 1 / distance."""
    counts = []
    for distance in range(1, window + 1):
        left, right = rows[:-distance], rows[distance:]
        pair = (sequence[:-distance] == sequence[distance:]) & (left != right)
        weight = np.full(int(pair.sum()), 1.0 / distance)
        counts.append(sparse.csr_array((weight, (left[pair], right[pair])), shape=(items, items)))
    one_sided = sum(counts[1:], start=counts[0])
    return sparse.csr_array(one_sided + one_sided.T)


def ppmi(counts: sparse.csr_array) -> sparse.csr_array:
    """max(0, log(P(i, j) / (P(i) P_c(j)))), P_c the smoothed context distribution; symmetrised."""
    if not counts.nnz:
        return counts
    entries = counts.tocoo()
    item = counts.sum(axis=1)
    context = item**CONTEXT_POWER
    expected = item[entries.row] * context[entries.col] / context.sum()
    information = np.maximum(np.log(entries.data / expected), 0.0)
    matrix = sparse.csr_array((information, (entries.row, entries.col)), shape=counts.shape)
    matrix.eliminate_zeros()
    return sparse.csr_array((matrix + matrix.T) / 2)


def embed(matrix: sparse.csr_array, width: int) -> Floats:
    """U sqrt(S) of the leading singular triplets, one row per matrix row, padded with zeros to ``width``."""
    left, values, _ = singular_vectors(matrix, width)
    vectors = np.zeros((matrix.shape[0], width), np.float32)
    vectors[:, : len(values)] = left * np.sqrt(values)
    return vectors


def singular_vectors(matrix: sparse.csr_array, most: int) -> tuple[Doubles, Doubles, Doubles]:
    """The leading singular triplets, at most ``most``: left (rows, r), values (r,) descending, right (columns, r).

    Repeatable: the iteration starts from a fixed vector and every left column's largest entry is made positive.
    """
    rank = min(most, min(matrix.shape) - 1)
    if not matrix.nnz or rank < 1:
        return np.zeros((matrix.shape[0], 0)), np.zeros(0), np.zeros((matrix.shape[1], 0))
    start = np.random.default_rng(0).uniform(0.5, 1.5, min(matrix.shape))
    left, values, right = svds(matrix.astype(np.float64), k=rank, v0=start)
    order = np.argsort(-values, kind="stable")
    left, right = left[:, order], right.T[:, order]
    found: Doubles = np.maximum(values[order], 0.0, dtype=np.float64)
    sign = np.sign(left[np.argmax(np.abs(left), axis=0), np.arange(rank)])
    return left * sign, found, right * sign
