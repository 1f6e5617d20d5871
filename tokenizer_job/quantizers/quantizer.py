"""One interface for everything that turns item vectors into semantic IDs.

Shape legend: N items, K levels, N_t codes per level, d vector width.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from safetensors import safe_open

from common.settings import TokenizerSettings
from tokenizer_job.quantizers.balanced import fit_balanced
from tokenizer_job.quantizers.codebooks import Codes, Floats, ResidualCodebooks
from tokenizer_job.quantizers.kmeans import fit_kmeans
from tokenizer_job.quantizers.levels_file import LevelsFile
from tokenizer_job.quantizers.rq_kmeans import Lloyd, fit_rq_kmeans
from tokenizer_job.quantizers.rq_vae import RqVae, fit_rq_vae


class Quantizer(Protocol):
    """Frozen codebooks and whatever stands around them."""

    @property
    def method(self) -> str:
        """``rq_kmeans``, ``balanced`` or ``rq_vae``."""

    @property
    def codes(self) -> int:
        """N_t."""

    @property
    def levels(self) -> int:
        """K."""

    def fingerprint(self) -> str:
        """The tokenizer's version: equal exactly for equal tensors of the same method."""

    def encode(self, vectors: Floats) -> Codes:
        """SIDs (N, K) of vectors (N, d), the same for a row whatever rows it comes with.

        Raises:
            ValueError: a vector is not finite or has another width.
        """

    def decode(self, sids: Codes) -> Floats:
        """The vectors (N, d) that SIDs of any number of leading levels stand for."""

    def last_level_distances(self, vectors: Floats, sids: Codes) -> Floats:
        """Squared distances (N, N_t) to each last code of what the first K-1 codes of the SIDs leave of the vectors."""

    def save(self, path: Path) -> None:
        """Write to one safetensors file."""


@dataclass(frozen=True)
class Fitted:
    """A quantizer and the SIDs (N, K) of the vectors it was fitted on."""

    quantizer: Quantizer
    sids: Codes
    """The balanced assignment of ``balanced``; what ``encode`` gives otherwise. Items may share one."""


def fit_quantizer(
    vectors: Floats,
    tokenizer: TokenizerSettings,
    codes: int,
    levels: int,
    seed: int,
    on_progress: Callable[[str], None] = lambda _: None,
    resume: Path | None = None,
) -> Fitted:
    """Fit the quantizer that the settings name on item vectors (N, d).

    ``resume``, a file: RQ-Kmeans keeps every finished level there while it runs, and an interrupted fit goes on from it to
    the same codebooks.

    Raises:
        ValueError: a vector is not finite, or there are fewer distinct vectors (or residuals of a level) than codes.
    """
    if tokenizer.method == "balanced":
        return Fitted(*fit_balanced(vectors, codes, levels, tokenizer.balanced_method, seed, on_progress))
    quantizer: Quantizer
    if tokenizer.method == "rq_vae":
        quantizer = fit_rq_vae(vectors, codes, levels, tokenizer.rq_vae, seed, on_progress)
    else:
        lloyd = choose_lloyd(tokenizer.backend)
        kept = LevelsFile(resume, vectors, f"{codes} {tokenizer.iterations} {seed} {lloyd.__name__}") if resume else None
        quantizer = fit_rq_kmeans(
            vectors,
            codes,
            levels,
            tokenizer.iterations,
            seed,
            lloyd=lloyd,
            fitted=kept.read()[:levels] if kept else (),
            on_level=kept.write if kept else lambda _: None,
            on_progress=on_progress,
        )
        if kept:
            kept.remove()
    return Fitted(quantizer, quantizer.encode(vectors))


def load_quantizer(path: Path) -> Quantizer:
    """The quantizer that `Quantizer.save` wrote.

    Raises:
        ValueError: the file names no known method.
    """
    with safe_open(path, "numpy") as file:
        method = (file.metadata() or {}).get("method", "none")
    if method == "rq_vae":
        return RqVae.load(path)
    if method not in {"rq_kmeans", "balanced"}:
        raise ValueError(f"{path} has method {method}: expected rq_kmeans, balanced or rq_vae")
    return ResidualCodebooks.load(path, method)


def choose_lloyd(backend: str) -> Lloyd:
    """Who runs Lloyd's algorithm: ``torch``, ``faiss``, or ``auto``."""
    if backend == "torch" or (backend == "auto" and not importlib.util.find_spec("faiss")):
        return fit_kmeans
    if not importlib.util.find_spec("faiss"):
        raise ValueError("tokenizer.backend=faiss needs faiss: pip install 'onerec-online[faiss]'")
    from tokenizer_job.quantizers.lloyd_faiss import fit_kmeans_faiss

    return fit_kmeans_faiss
