"""Residual k-means, the tokenizer of the OneRec technical report (section "Tokenizer").

R^(1) = vectors; at each level l the residuals are clustered, s^l is the nearest centroid and R^(l+1) = R^(l) - c_{s^l}.
Shape legend: N items, K levels, N_t codes per level, d vector width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tokenizer_job.quantizers.kmeans import assign, choose_start, fit_kmeans

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]
FIT_POINTS_PER_CODE = 256
"""Larger catalogues fit their codebooks on a random subset of this many items per code."""


@dataclass(frozen=True, eq=False)
class RqKmeans:
    """Codebooks (K, N_t, d), float32."""

    codebooks: Floats

    def encode(self, vectors: Floats) -> Codes:
        """SIDs (N, K) of vectors (N, d): the nearest code at each level, ties to the lowest."""
        residual = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))
        codes = []
        for codebook in torch.from_numpy(self.codebooks):
            labels = assign(residual, codebook)
            residual = residual - codebook[labels]
            codes.append(labels)
        return torch.stack(codes, 1).numpy().astype(np.int32)

    def decode(self, sids: Codes) -> Floats:
        """The vectors (N, d) that SIDs of any number of leading levels stand for: sums of their codes."""
        total = np.zeros((len(sids), self.codebooks.shape[2]), np.float32)
        for codebook, codes in zip(self.codebooks, sids.T, strict=False):
            total += codebook[codes]
        return total

    def save(self, path: Path) -> None:
        """Write the codebooks as safetensors."""
        save_file({"codebooks": self.codebooks}, path)

    @staticmethod
    def load(path: Path) -> RqKmeans:
        """Inverse of `save`."""
        return RqKmeans(load_file(path)["codebooks"])


def fit_rq_kmeans(vectors: Floats, codes: int, levels: int, iterations: int, seed: int) -> RqKmeans:
    """Fit codebooks on item vectors (N, d); every code of every level is in use on the fit set.

    Raises:
        ValueError: a level has fewer distinct residuals than ``codes``.
    """
    generator = torch.Generator().manual_seed(seed)
    residual = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))
    if len(residual) > FIT_POINTS_PER_CODE * codes:
        residual = residual[torch.randperm(len(residual), generator=generator)[: FIT_POINTS_PER_CODE * codes]]
    codebooks = []
    for level in range(1, levels + 1):
        _check_distinct(residual, codes, level)
        start = choose_start(residual, codes, generator)
        codebook, labels = fit_kmeans(residual, start, iterations)
        residual = residual - codebook[labels]
        codebooks.append(codebook)
    return RqKmeans(torch.stack(codebooks).numpy())


def spread_last_level(model: RqKmeans, vectors: Floats, sids: Codes) -> Codes:
    """Give items that share an SID different last codes, at the least total squared distance.

    Items of one prefix are matched one to one with the codes of the last level (a code takes ceil(n / N_t) of n items
    where a prefix has more items than codes). Prefixes without a shared SID keep their codes. Small catalogues need it:
    retrieval is counted per item, and only one item of a shared SID can be retrieved.
    """
    last = model.codebooks[-1].astype(np.float64)
    residual = vectors - model.decode(sids[:, :-1])
    spread = sids.copy()
    _, prefix = np.unique(sids[:, :-1], axis=0, return_inverse=True)
    order = np.argsort(prefix.ravel(), kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(prefix.ravel()[order])) + 1):
        if len(np.unique(sids[rows, -1])) < len(rows):
            spread[rows, -1] = _match(residual[rows].astype(np.float64), last)
    return spread


def _match(points: npt.NDArray[np.float64], codebook: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The code of each point (n,) when a code takes at most ceil(n / N_t) points and total distance is least."""
    capacity = -(-len(points) // len(codebook))
    cost = (codebook**2).sum(1) - 2 * points @ codebook.T
    _, columns = linear_sum_assignment(np.repeat(cost, capacity, axis=1))
    return np.asarray(columns // capacity, np.int64)


def _check_distinct(residual: Tensor, codes: int, level: int) -> None:
    rows = np.ascontiguousarray(residual.numpy() + 0.0)  # + 0.0 turns -0.0 into 0.0, which has other bytes
    distinct = len(np.unique(rows.view(np.dtype((np.void, rows.strides[0])))))
    if distinct < codes:
        raise ValueError(f"level {level} has {distinct} distinct points for {codes} codes: codes must be at most {distinct}")
