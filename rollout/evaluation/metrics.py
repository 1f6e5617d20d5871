"""What a list of recommendations is worth: pure functions of ranked rows, counts and scores.

Shape legend: U users, N items of the catalogue, K generated items of one user.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.messages import NO_ITEM

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def recall_and_ndcg(ranked: Sequence[IntArray], targets: Sequence[IntArray], k: int) -> tuple[FloatArray, FloatArray]:
    """Per-user Recall@k (hits / targets) and NDCG@k (binary gains, ideal = all targets first), each (U,)."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    recall, ndcg = np.zeros(len(ranked)), np.zeros(len(ranked))
    for user, (rows, wanted) in enumerate(zip(ranked, targets, strict=True)):
        hits = np.isin(rows[:k], wanted)
        recall[user] = hits.sum() / len(wanted)
        ndcg[user] = (discounts[: len(hits)] * hits).sum() / discounts[: min(k, len(wanted))].sum()
    return recall, ndcg


def recommendation_counts(ranked: Sequence[IntArray], items: int, k: int) -> IntArray:
    """In how many users' first k each item row is: (N,)."""
    shown = np.concatenate([*(rows[:k] for rows in ranked), np.empty(0, np.int64)]).astype(np.int64)
    return np.bincount(shown, minlength=items)


def coverage(counts: IntArray) -> float:
    """Share of the catalogue that is recommended to anyone."""
    return float((counts > 0).mean())


def lorenz(counts: IntArray) -> FloatArray:
    """Share of all recommendations that the n least recommended items have, for n = 0..N: (N + 1,), from 0 to 1.

    Raises:
        ValueError: nothing was recommended.
    """
    if counts.sum() == 0:
        raise ValueError("counts must hold at least one recommendation, got none")
    shares = np.cumsum(np.sort(counts)) / counts.sum()
    return np.concatenate([[0.0], shares])


def gini(counts: IntArray) -> float:
    """Twice the area between equality and the Lorenz curve: 0 if all items are recommended alike, 1 - 1/N if only one is."""
    curve = lorenz(counts)
    return float(1.0 - (curve[1:] + curve[:-1]).sum() / len(counts))


def cold_start_share(counts: IntArray, trained: BoolArray) -> float:
    """Share of the recommendations that are of items which ``trained`` (N,) does not mark: no interaction to learn from."""
    return float(counts[~trained].sum() / counts.sum())


def legality_at(item_ids: IntArray, k: int) -> float:
    """Share of one user's k most probable candidates that are items (`NO_ITEM` marks those that are none)."""
    return float((item_ids[:k] != NO_ITEM).mean())


def pass_and_mean(scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Best and mean of one user's K items, per metric: (K, M) -> (M,) and (M,).

    The mean over users of the first is Pass@K. The OneRec technical report shows Pass@K without defining it; that of
    the second is what the first OneRec paper calls mean.
    """
    return scores.max(0), scores.mean(0)


def paired_bootstrap(ours: FloatArray, theirs: FloatArray, samples: int, seed: int) -> float:
    """One-sided p-value that mean(ours) <= mean(theirs), by resampling users with replacement."""
    rng = np.random.default_rng(seed)
    difference = ours - theirs
    draws = rng.integers(0, len(difference), (samples, len(difference)))
    worse = int((difference[draws].mean(1) <= 0).sum())
    return (1 + worse) / (1 + samples)
