"""RQ-Kmeans fits 200,000 x 256 vectors with 3 x 1024 codes no slower than faiss's k-means, and reconstructs no worse.

Vectors: three nested mixtures (64, 1024 and 16,384 groups with Zipf sizes), noise on top, rows of length one; so clusters
are uneven and deeper than the codes can tell apart. The rival is `faiss.Kmeans` level by level on the residuals: its own
start, as many iterations (all of them over all points) and threads. Errors are squared, per vector, by exact labels.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness import BenchResult, Claim, Floor, product_rate, race, seconds
from tokenizer_job.quantizers.codebooks import ResidualCodebooks
from tokenizer_job.quantizers.kmeans import fit_kmeans
from tokenizer_job.quantizers.lloyd_faiss import fit_kmeans_faiss
from tokenizer_job.quantizers.rq_kmeans import Lloyd, fit_rq_kmeans

Floats = npt.NDArray[np.float32]
Say = Callable[[str], None]
GROUPS = ((64, 1.0), (1024, 0.7), (16_384, 0.5))
"""Groups of each mixture and the scale of their centres."""
NOISE = 0.3


@dataclass(frozen=True)
class Scale:
    """How large the comparison is."""

    items: int = 200_000
    width: int = 256
    codes: int = 1024
    levels: int = 3
    iterations: int = 25
    runs: int = 3


@dataclass
class Contest:
    """The rivals on the same vectors; every fit takes the next seed of its own. Labels and errors are not timed."""

    vectors: Floats
    scale: Scale
    on_progress: Say
    fits: dict[str, list[ResidualCodebooks]] = field(default_factory=dict)

    def ours(self, name: str, lloyd: Lloyd) -> None:
        """A fit with the k-means given."""
        self.on_progress(name)
        scale, fits = self.scale, self.fits.setdefault(name, [])
        fits.append(fit_rq_kmeans(self.vectors, scale.codes, scale.levels, scale.iterations, len(fits), lloyd=lloyd))

    def faiss(self) -> None:
        """The rival's fit."""
        self.on_progress("faiss")
        faiss.omp_set_num_threads(torch.get_num_threads())
        rest, scale, fits = self.vectors, self.scale, self.fits.setdefault("faiss", [])
        codebooks = []
        for level in range(scale.levels):
            kmeans = faiss.Kmeans(scale.width, scale.codes, niter=scale.iterations, seed=1 + level + 97 * len(fits))
            kmeans.cp.max_points_per_centroid = len(rest)
            kmeans.train(rest)
            assert kmeans.centroids is not None
            codebooks.append(kmeans.centroids.copy())
            _, labels = kmeans.index.search(rest, 1)
            rest = rest - codebooks[-1][labels.ravel()]
        fits.append(ResidualCodebooks(np.stack(codebooks)))

    def errors(self) -> dict[str, list[float]]:
        """Squared error per vector of every fit so far, by exact labels for all."""
        return {name: [self._error(model) for model in fits] for name, fits in self.fits.items()}

    def _error(self, model: ResidualCodebooks) -> float:
        rest = self.vectors - model.decode(model.encode(self.vectors))
        return float(np.einsum("nd,nd->n", rest, rest).mean(dtype=np.float64))


def run(data: Path, on_progress: Say) -> BenchResult:  # noqa: ARG001 - the vectors are synthetic
    """Fit both in turns; takes ten minutes."""
    return compare(Scale(), on_progress)


def compare(scale: Scale, on_progress: Say) -> BenchResult:
    """The benchmark at any scale."""
    contest = Contest(clustered_vectors(scale.items, scale.width, seed=0), scale, on_progress)
    timed = race(lambda: contest.ours("ours", fit_kmeans), contest.faiss, scale.runs, warm_up=False)
    backend = seconds(lambda: contest.ours("ours, backend faiss", fit_kmeans_faiss))
    products = 2.0 * scale.items * scale.width * scale.codes * scale.levels * (scale.iterations + 1)
    errors = contest.errors()
    error, rival_error = (statistics.mean(errors[name]) for name in ("ours", "faiss"))
    return BenchResult(
        name="tokenizer-fit",
        value=timed.value,
        unit="seconds",
        rival=timed.rival_value,
        ratio=timed.ratio,
        spread=timed.spread,
        floor=Floor(
            value=products / product_rate(1024, scale.width, scale.codes),
            what="matrix products of every iteration and the last labels over all vectors, at torch's measured rate; "
            "early iterations that look at a sample do less",
        ),
        details={
            **vars(scale),
            "rival": f"faiss {faiss.__version__}, {faiss.omp_get_max_threads()} threads",
            "seconds": {"ours": timed.ours, "faiss": timed.rival, "ours, backend faiss": [backend]},
            "squared_error": errors,
            "claims": [
                Claim(claim="no slower than faiss", holds=timed.ratio >= 1, figures={"ratio": timed.ratio}),
                Claim(
                    claim="error no higher than faiss's, mean of the runs",
                    holds=error <= rival_error,
                    figures={"ours": error, "faiss": rival_error},
                ),
            ],
        },
    )


def clustered_vectors(items: int, width: int, seed: int) -> Floats:
    """Rows (items, width) of length one from nested mixtures with uneven groups."""
    rng = np.random.default_rng(seed)
    vectors = NOISE * rng.standard_normal((items, width), dtype=np.float32)
    for groups, scale in GROUPS:
        share = np.arange(1, groups + 1) ** -0.8
        group = rng.choice(groups, items, p=share / share.sum())
        vectors += np.float32(scale) * rng.standard_normal((groups, width), dtype=np.float32)[group]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
