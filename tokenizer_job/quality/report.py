"""How good a tokenisation is, in figures (OneRec technical report, table of tokenizer quality)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from tokenizer_job.quality.prefixes import PrefixPurity, prefix_groups, prefix_purity
from tokenizer_job.quantizers import Quantizer

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
CHUNK = 65_536
"""Rows whose float64 errors are held at once."""


class TokenizerReport(BaseModel):
    """Quality of the SIDs of N items; lists hold one value per level."""

    items: int
    codes: int
    levels: int
    """Of the SIDs, an appended level included."""
    variance: float
    """Mean squared deviation per dimension of the vectors from their mean: the error of one code for all."""
    reconstruction_mse: list[float]
    """Mean squared error per dimension after 1, 2, … levels of the quantizer, on the vectors as tokenised (an appended
    level says nothing about the vector and has no value here)."""
    utilisation: list[float]
    """Share of the codes in use."""
    entropy_nats: list[float]
    """Of the codes' frequencies; at most ln(codes)."""
    perplexity: list[float]
    """exp(entropy): as many equally frequent codes have this entropy."""
    gini: list[float]
    """Of how often each code is used, unused ones included: 0 for all alike, 1 - 1/codes for a single code."""
    collision_rate: float
    """1 - distinct SIDs / items."""
    shared_share: float
    """Share of items whose SID another item has too."""
    largest_bucket: int
    """Most items of one SID."""
    bucket_sizes: dict[int, int]
    """Items of an SID -> how many SIDs have that many."""
    moved_share: float
    """Share of items whose SID is not the one that the quantizer gives their vector: moved to an SID of their own, or
    elsewhere by the balance of a fit."""
    prefixes: PrefixPurity | None = None
    """Purity of prefixes by category; null without categories."""


def assess(quantizer: Quantizer, vectors: Floats, sids: Codes, categories: list[str] | None = None) -> TokenizerReport:
    """The report of SIDs (N, K) that stand for vectors (N, d) of items with these categories ("" where unknown).

    K is the quantizer's number of levels, or one more where a last level numbers the items of an SID.
    """
    assert 0 < len(sids) == len(vectors), f"{len(sids)} SIDs for {len(vectors)} vectors"
    counts = [np.bincount(column, minlength=quantizer.codes) for column in sids.T]
    bucket = np.bincount(prefix_groups(sids)[-1])
    sizes, how_many = np.unique(bucket, return_counts=True)
    entropy = [_entropy(count) for count in counts]
    centre = vectors.mean(0, dtype=np.float64)
    own = sids[:, : quantizer.levels]
    return TokenizerReport(
        items=len(sids),
        codes=quantizer.codes,
        levels=sids.shape[1],
        variance=_mean_square(len(vectors), lambda rows: vectors[rows] - centre),
        reconstruction_mse=[reconstruction_mse(quantizer, vectors, own[:, : k + 1]) for k in range(quantizer.levels)],
        utilisation=[float((count > 0).mean()) for count in counts],
        entropy_nats=entropy,
        perplexity=[float(np.exp(value)) for value in entropy],
        gini=[_gini(count) for count in counts],
        collision_rate=1.0 - len(bucket) / len(sids),
        shared_share=float(bucket[bucket > 1].sum() / len(sids)),
        largest_bucket=int(bucket.max()),
        bucket_sizes=dict(zip(sizes.tolist(), how_many.tolist(), strict=True)),
        moved_share=float((own != quantizer.encode(vectors)).any(1).mean()),
        prefixes=None if categories is None else prefix_purity(sids, categories),
    )


def reconstruction_mse(quantizer: Quantizer, vectors: Floats, sids: Codes) -> float:
    """Mean squared error per dimension of what leading levels (N, 1..K) say about vectors (N, d)."""
    return _mean_square(len(vectors), lambda rows: vectors[rows] - quantizer.decode(sids[rows]))


def _mean_square(rows: int, error: Callable[[slice], npt.NDArray[np.floating]]) -> float:
    """Of the errors (n, d) of all rows, a chunk at a time in float64."""
    total, values = 0.0, 0
    for start in range(0, rows, CHUNK):
        chunk = error(slice(start, start + CHUNK)).astype(np.float64)
        total += float((chunk**2).sum())
        values += chunk.size
    return total / values


def _entropy(counts: Ints) -> float:
    share = counts[counts > 0] / counts.sum()
    return abs(float((share * np.log(share)).sum()))  # abs, not minus: a single code has 0, not -0


def _gini(counts: Ints) -> float:
    """Half the mean absolute difference of two codes' counts, over their mean."""
    ranks = 2 * np.arange(1, len(counts) + 1) - len(counts) - 1
    return float((ranks * np.sort(counts)).sum() / (len(counts) * counts.sum()))
