"""Retrieval baselines on the same split: popularity of the last day, and ItemKNN on all watched items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


def top_unseen(scores: FloatArray, seen: Sequence[IntArray], k: int) -> IntArray:
    """The k best rows of each user, (U, k), best first; rows in ``seen`` are left out, ties go to the lowest row."""
    masked = scores.copy()
    for user, rows in enumerate(seen):
        masked[user, rows] = -np.inf
    return np.argsort(-masked, axis=1, kind="stable")[:, :k]


def popularity_scores(rows: IntArray, items: int) -> FloatArray:
    """How often each item row occurs: (items,)."""
    return np.bincount(rows[rows >= 0], minlength=items).astype(np.float32)


class ItemKnn:
    """Item-based neighbours: cosine between the items' columns of the binary user x item matrix."""

    def __init__(self, histories: Sequence[IntArray], items: int) -> None:
        users = interactions(histories, items)
        norm = np.sqrt(np.asarray(users.sum(0)).ravel())
        scaled = users @ sparse.diags_array(1.0 / np.maximum(norm, 1.0))
        self.similarity = sparse.csr_array(scaled.T @ scaled)
        self.similarity.setdiag(0)

    def scores(self, histories: Sequence[IntArray]) -> FloatArray:
        """Sum of similarities to each user's distinct history items: (U, items)."""
        wanted = interactions(histories, self.similarity.shape[0])
        return np.asarray((wanted @ self.similarity).todense(), np.float32)


def interactions(histories: Sequence[IntArray], items: int) -> sparse.csr_array:
    """Binary (users, items) matrix of item rows; -1 (unknown item) is skipped."""
    user = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
    item = np.concatenate([*histories, np.empty(0, np.int64)]).astype(np.int64)
    known = item >= 0
    matrix = sparse.csr_array((np.ones(int(known.sum()), np.float32), (user[known], item[known])), (len(histories), items))
    matrix.data[:] = 1.0
    return matrix
