"""Encoding 200,000 new items of width 256 with 3 x 1024 codes takes at most twice the time of its matrix products.

The labels are those of exact arithmetic, which is checked by brute force in float64 and by encoding items one by one. The
rival is a flat faiss index per level, whose float32 distances decide alone. Vectors as in `benchmarks.tokenizer_fit`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch

from benchmarks.harness import BenchResult, Claim, Floor, product_rate, race, seconds
from benchmarks.tokenizer_fit import Floats, Scale, clustered_vectors
from tokenizer_job.quantizers.codebooks import Codes, ResidualCodebooks
from tokenizer_job.quantizers.rq_kmeans import fit_rq_kmeans

Say = Callable[[str], None]
CHUNK = 1024
FIT_ITERATIONS = 5
CHECKED, ALONE = 20_000, 500
"""Rows checked by brute force, and rows encoded one by one."""


def run(data: Path, on_progress: Say) -> BenchResult:  # noqa: ARG001 - the vectors are synthetic
    """Fit quickly, then encode; takes two minutes."""
    return compare(Scale(runs=7), on_progress)


def compare(scale: Scale, on_progress: Say) -> BenchResult:
    """The benchmark at any scale."""
    known, new = np.split(clustered_vectors(2 * scale.items, scale.width, seed=1), 2)
    on_progress("fitting")
    model = fit_rq_kmeans(known[: 64 * scale.codes], scale.codes, scale.levels, FIT_ITERATIONS, seed=0)
    on_progress("encoding")
    timed = race(lambda: model.encode(new), lambda: _encode_with_faiss(model, new), scale.runs)
    rates = {
        "torch": product_rate(CHUNK, scale.width, scale.codes),
        "numpy": _numpy_product_rate(CHUNK, scale.width, scale.codes),
    }
    floor = 2.0 * scale.items * scale.width * scale.codes * scale.levels / max(rates.values())
    on_progress("checking")
    sids = model.encode(new)
    checks = {
        "brute force": int((sids[:CHECKED] != brute_force(model, new[:CHECKED])).any(1).sum()),
        "one by one": sum(int((model.encode(new[row : row + 1]) != sids[row]).any()) for row in range(min(ALONE, len(new)))),
        "faiss": int((sids[:CHECKED] != _encode_with_faiss(model, new[:CHECKED])).any(1).sum()),
    }
    return BenchResult(
        name="tokenizer-encode",
        value=timed.value,
        unit="seconds",
        rival=timed.rival_value,
        ratio=timed.ratio,
        spread=timed.spread,
        floor=Floor(value=floor, what="2 x items x width x codes x levels operations at the faster measured product rate"),
        details={
            "items": scale.items,
            "width": scale.width,
            "codes": scale.codes,
            "levels": scale.levels,
            "rival": f"faiss {faiss.__version__} IndexFlatL2, {faiss.omp_get_max_threads()} threads",
            "seconds": {"ours": timed.ours, "faiss": timed.rival},
            "product_rate": rates,
            "rows_that_differ": checks,
            "claims": [
                Claim(
                    claim="within twice the floor",
                    holds=timed.value <= 2 * floor,
                    figures={"over the floor": timed.value / floor},
                ),
                Claim(
                    claim="labels are exact, and those of a row alone",
                    holds=checks["brute force"] == checks["one by one"] == 0,
                    figures=checks,
                ),
            ],
        },
    )


def brute_force(model: ResidualCodebooks, vectors: Floats) -> Codes:
    """SIDs (N, K) by float64 differences between every vector and every code."""
    residual, codes = vectors, []
    for codebook in model.codebooks:
        wide = codebook.astype(np.float64)
        labels = np.array([((row - wide) ** 2).sum(1).argmin() for row in residual.astype(np.float64)])
        residual = residual - codebook[labels]
        codes.append(labels)
    return np.stack(codes, 1).astype(np.int32)


def _encode_with_faiss(model: ResidualCodebooks, vectors: Floats) -> Codes:
    faiss.omp_set_num_threads(torch.get_num_threads())
    residual, codes = vectors, []
    for codebook in model.codebooks:
        index = faiss.IndexFlatL2(codebook.shape[1])
        index.add(codebook)
        labels = index.search(residual, 1)[1].ravel()
        residual = residual - codebook[labels]
        codes.append(labels)
    return np.stack(codes, 1).astype(np.int32)


def _numpy_product_rate(rows: int, inner: int, columns: int) -> float:
    """`product_rate` of numpy's product, which may come from another library than torch's."""
    rng = np.random.default_rng(0)
    left, right = rng.random((rows, inner), np.float32), rng.random((inner, columns), np.float32)
    out = np.empty((rows, columns), np.float32)
    return 2.0 * rows * inner * columns / min(seconds(lambda: np.matmul(left, right, out=out)) for _ in range(6))
