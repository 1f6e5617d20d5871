"""Residual codebooks: what turns vectors into semantic IDs once they have been fitted, however that was done.

Shape legend: N items, K levels, N_t codes per level, d vector width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from safetensors.numpy import load_file, save_file
from torch import Tensor

from tokenizer_job.quantizers.nearest import assign

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class ResidualCodebooks:
    """Codebooks (K, N_t, d), float32: level l has the nearest code of what the codes before it left over.

    OneRec technical report, section "Tokenizer": R^(1) = vectors, s^l = argmin_k ||R^(l) - c_k^(l)||,
    R^(l+1) = R^(l) - c^(l)_{s^l}.
    """

    codebooks: Floats
    method: str = "rq_kmeans"

    @property
    def levels(self) -> int:
        """K."""
        return len(self.codebooks)

    @property
    def codes(self) -> int:
        """N_t."""
        return int(self.codebooks.shape[1])

    def fingerprint(self) -> str:
        """The tokenizer's version: equal for equal codebooks fitted by the same method."""
        return fingerprint(self.method, {"codebooks": self.codebooks})

    def encode(self, vectors: Floats) -> Codes:
        """SIDs (N, K) of vectors (N, d): the nearest code at each level, ties to the lowest.

        Raises:
            ValueError: a vector is not finite or has another width.
        """
        residual = as_points(vectors, self.codebooks.shape[2])
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

    def last_level_distances(self, vectors: Floats, sids: Codes) -> Floats:
        """Squared distances (N, N_t) to the last codes of what the first K-1 codes of each SID leave of its vector."""
        residual = as_points(vectors, self.codebooks.shape[2]).numpy()
        for codebook, codes in zip(self.codebooks[:-1], sids.T, strict=False):
            residual = residual - codebook[codes]
        rest, last = residual.astype(np.float64), self.codebooks[-1].astype(np.float64)
        distances: npt.NDArray[np.float64] = (rest**2).sum(1, keepdims=True) - 2 * rest @ last.T + (last**2).sum(1)
        return np.maximum(distances, 0).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write the codebooks as safetensors."""
        save_file({"codebooks": self.codebooks}, path, metadata={"method": self.method})

    @staticmethod
    def load(path: Path, method: str = "rq_kmeans") -> ResidualCodebooks:
        """Inverse of `save`."""
        return ResidualCodebooks(load_file(path)["codebooks"], method)


def as_points(vectors: Floats, width: int | None = None) -> Tensor:
    """Vectors (N, d) as a tensor.

    Raises:
        ValueError: a vector is not finite, its squared length overflows float32, or it has another width.
    """
    if vectors.ndim != 2 or (width is not None and vectors.shape[1] != width):
        raise ValueError(f"vectors must have the shape (items, {width or 'width'}), got {vectors.shape}")
    points = np.ascontiguousarray(vectors, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        bad = np.flatnonzero(~np.isfinite(np.einsum("nd,nd->n", points, points)))
    if len(bad):
        worst = points[bad[0]][np.abs(np.nan_to_num(points[bad[0]], nan=np.inf)).argmax()]
        raise ValueError(
            f"vectors must be finite with squared lengths below 3e38: row {bad[0]} has {worst} ({len(bad)} such rows)"
        )
    return torch.from_numpy(points)


def fingerprint(method: str, tensors: Mapping[str, npt.NDArray[np.float32]]) -> str:
    """xxh3_64 of a method's name and of its tensors' names, shapes and bytes."""
    digest = xxhash.xxh3_64(method.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()
