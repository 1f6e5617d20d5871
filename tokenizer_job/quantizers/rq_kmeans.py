"""Residual k-means, the tokenizer of the OneRec technical report (section "Tokenizer").

Every level clusters what the levels before it left over, all items together whatever their prefix.
Shape legend: N items, K levels, N_t codes per level, d vector width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tokenizer_job.quantizers.codebooks import Codes, Floats, ResidualCodebooks, as_points
from tokenizer_job.quantizers.kmeans import Progress, fit_kmeans
from tokenizer_job.quantizers.start import choose_start

FIT_POINTS_PER_CODE = 256
"""Larger catalogues fit their codebooks on a random subset of this many items per code."""
ClusterLevel = Callable[[Tensor, Tensor, torch.Generator, Progress], tuple[Tensor, Tensor]]
"""(points (N, d), start (N_t, d), generator, on_progress) -> centroids (N_t, d) and labels (N,)."""
Lloyd = Callable[[Tensor, Tensor, int, Progress], tuple[Tensor, Tensor]]
"""(points, start, iterations, on_progress) -> centroids and labels, as `fit_kmeans`."""


def fit_rq_kmeans(
    vectors: Floats,
    codes: int,
    levels: int,
    iterations: int,
    seed: int,
    *,
    lloyd: Lloyd = fit_kmeans,
    fitted: Sequence[Floats] = (),
    on_level: Callable[[list[Floats]], None] = lambda _: None,
    on_progress: Progress = lambda _: None,
) -> ResidualCodebooks:
    """Fit codebooks on item vectors (N, d); every code of every level is in use on the fit set.

    Raises:
        ValueError: a vector is not finite, or a level has fewer distinct residuals than ``codes``.
    """
    if len(vectors) > FIT_POINTS_PER_CODE * codes:
        chosen = torch.randperm(len(vectors), generator=_generator(seed, 0))[: FIT_POINTS_PER_CODE * codes]
        vectors = vectors[chosen.numpy()]
    codebooks, _ = fit_levels(
        vectors,
        codes,
        levels,
        seed,
        lambda points, start, _, progress: lloyd(points, start, iterations, progress),
        fitted=fitted,
        on_level=on_level,
        on_progress=on_progress,
    )
    return ResidualCodebooks(codebooks)


def fit_levels(
    vectors: Floats,
    codes: int,
    levels: int,
    seed: int,
    cluster: ClusterLevel,
    *,
    fitted: Sequence[Floats] = (),
    on_level: Callable[[list[Floats]], None] = lambda _: None,
    on_progress: Progress = lambda _: None,
) -> tuple[Floats, Codes]:
    """Codebooks (K, N_t, d) by clustering the residuals of each level in turn, and the labels (N, K) that it gave.

    ``on_level`` is given the codebooks so far after each level. A fit that was interrupted goes on from such leading
    codebooks, ``fitted``, to the same codebooks; the labels of those levels are the nearest codes.
    """
    residual = as_points(vectors)
    codebooks, labels = list(fitted), []
    if fitted:
        labels = list(torch.from_numpy(ResidualCodebooks(np.stack(fitted)).encode(vectors).astype(np.int64)).unbind(1))
        for codebook, own in zip(fitted, labels, strict=True):
            residual = residual - torch.from_numpy(codebook)[own]
    for level in range(len(codebooks) + 1, levels + 1):
        generator = _generator(seed, level)
        start = choose_start(residual, codes, generator, f"level {level}")
        centroids, own = cluster(residual, start, generator, _prefixed(on_progress, f"level {level} of {levels}"))
        residual = residual - centroids[own]
        codebooks.append(centroids.numpy())
        labels.append(own)
        on_level(codebooks)
    return np.stack(codebooks), torch.stack(labels, 1).numpy().astype(np.int32)


def _generator(seed: int, level: int) -> torch.Generator:
    """One per level, so that a level does not depend on whether those before it were fitted in the same run."""
    return torch.Generator().manual_seed((seed << 8) + level)


def _prefixed(on_progress: Progress, prefix: str) -> Progress:
    return lambda text: on_progress(f"{prefix}: {text}")
