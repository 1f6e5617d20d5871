"""How good a tokenisation is, in a handful of numbers (OneRec technical report, table of tokenizer quality)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from tokenizer_job.quantizers.rq_kmeans import RqKmeans

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]


class TokenizerReport(BaseModel):
    """Quality of the SIDs of N items; lists hold one value per level."""

    items: int
    codes: int
    levels: int
    reconstruction_mse: list[float]
    """Mean squared error per dimension after 1, 2, … levels, on the vectors as tokenised."""
    utilisation: list[float]
    """Share of the codes in use."""
    entropy_nats: list[float]
    """Of the codes' frequencies; at most ln(codes)."""
    collision_rate: float
    """1 - distinct SIDs / items."""
    shared_share: float
    """Share of items whose SID another item has too."""
    largest_bucket: int
    moved_share: float
    """Share of items whose last code is not the nearest, so that they have an SID of their own."""


def assess(model: RqKmeans, vectors: Floats, sids: Codes) -> TokenizerReport:
    """The report of SIDs (N, K) that a tokenizer gave to vectors (N, d)."""
    levels, codes, _ = model.codebooks.shape
    _, bucket_sizes = np.unique(sids, axis=0, return_counts=True)
    counts = [np.bincount(column, minlength=codes) for column in sids.T]
    errors = [vectors - model.decode(sids[:, :level]) for level in range(1, levels + 1)]
    return TokenizerReport(
        items=len(sids),
        codes=codes,
        levels=levels,
        reconstruction_mse=[float((error.astype(np.float64) ** 2).mean()) for error in errors],
        utilisation=[float((count > 0).mean()) for count in counts],
        entropy_nats=[_entropy(count) for count in counts],
        collision_rate=1.0 - len(bucket_sizes) / len(sids),
        shared_share=float(bucket_sizes[bucket_sizes > 1].sum() / len(sids)),
        largest_bucket=int(bucket_sizes.max()),
        moved_share=float((sids != model.encode(vectors)).any(1).mean()),
    )


def _entropy(counts: npt.NDArray[np.int64]) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
