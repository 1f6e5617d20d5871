"""RQ-Kmeans reconstructs better than the best RQ-VAE and uses every code; balanced k-means evens the codes out.

The trend of the OneRec technical report's table of tokenizer quality, on the text vectors of Amazon Beauty (float32, as
they are), with the same codebook sizes for all, at every seed. The rival is the RQ-VAE setting with the lowest mean
reconstruction error over the seeds, out of `RQ_VAE_SETTINGS`; errors are measured in the input space.

How to read it: trained from random weights, with codebooks from k-means on the first batch and no reset of dead codes,
the first level of RQ-VAE collapses to a few codes here (its utilisation is in the details). The claim on level-1 entropy
is about that collapse, not about RQ-VAE that was kept from it: see `tokenizer_warm_rival`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.beauty import read_categories, read_vectors
from benchmarks.harness import BenchResult, Claim
from common.settings import RqVaeSettings, TokenizerSettings
from tokenizer_job.quality.prefixes import prefix_groups
from tokenizer_job.quality.report import TokenizerReport, assess, reconstruction_mse
from tokenizer_job.quantizers import Fitted, fit_quantizer
from tokenizer_job.quantizers.dedup import append_level, next_best

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]
Say = Callable[[str], None]
Reports = dict[str, list[TokenizerReport]]
OURS, BALANCED = "rq_kmeans", "balanced"
RQ_VAE_SETTINGS = tuple(
    RqVaeSettings(latent=latent, learning_rate=rate, epochs=60) for latent in (32, 64) for rate in (1e-3, 3e-4)
)


@dataclass(frozen=True)
class Scale:
    """How large the comparison is."""

    codes: int = 256
    levels: int = 3
    seeds: Sequence[int] = (0, 1, 2)
    rivals: Sequence[RqVaeSettings] = RQ_VAE_SETTINGS


def run(data: Path, on_progress: Say) -> BenchResult:
    """Fit every method with every seed on the catalogue in ``data`` and compare; takes minutes."""
    return compare(read_vectors(data), read_categories(data), Scale(), on_progress)


def compare(vectors: Floats, categories: list[str], scale: Scale, on_progress: Say) -> BenchResult:
    """Compare all methods on vectors (N, d) of items with these categories."""
    methods = {OURS: TokenizerSettings(method="rq_kmeans"), BALANCED: TokenizerSettings(method="balanced")}
    methods |= {_rival_name(rival): TokenizerSettings(method="rq_vae", rq_vae=rival) for rival in scale.rivals}
    fits: dict[str, list[Fitted]] = {name: [] for name in methods}
    reports: Reports = {name: [] for name in methods}
    for name, tokenizer in methods.items():
        for seed in scale.seeds:
            on_progress(f"{name}, seed {seed}")
            fits[name].append(fit_quantizer(vectors, tokenizer, scale.codes, scale.levels, seed, on_progress))
            reports[name].append(assess(fits[name][-1].quantizer, vectors, fits[name][-1].sids, categories))
    errors = {name: [report.reconstruction_mse[-1] for report in each] for name, each in reports.items()}
    best = min(map(_rival_name, scale.rivals), key=lambda name: fmean(errors[name]))
    ratios = [theirs / ours for ours, theirs in zip(errors[OURS], errors[best], strict=True)]
    dedup = _dedup(vectors, fits[OURS], scale)
    ours, theirs = fmean(errors[OURS]), fmean(errors[best])
    return BenchResult(
        name="tokenizer-quality",
        value=ours,
        unit="squared error per dimension",
        rival=theirs,
        ratio=theirs / ours,
        spread=(min(ratios), max(ratios)),
        details={
            "claims": [
                *_claims_on_rival(reports, best),
                *_claims_on_balance(reports, fits[BALANCED], scale),
                _balance_where_divisible(vectors, scale, on_progress),
                *_claims_on_dedup(dedup),
            ],
            "setting": {"items": len(vectors), "width": vectors.shape[1], "codes": scale.codes, "levels": scale.levels},
            "seeds": list(scale.seeds),
            "best_rival": best,
            "methods": {name: [_figures(report) for report in each] for name, each in reports.items()},
            "dedup_of_rq_kmeans": dedup,
        },
    )


def _claims_on_rival(reports: Reports, best: str) -> list[Claim]:
    """Reconstruction, utilisation and level-1 entropy against the best RQ-VAE, seed by seed."""
    error = {name: _column(reports[name], "reconstruction_mse", -1) for name in (OURS, best)}
    used = {name: _column(reports[name], "utilisation") for name in (OURS, best)}
    entropy = {name: _column(reports[name], "entropy_nats") for name in (OURS, best)}
    first = {name: [levels[0] for levels in entropy[name]] for name in entropy}
    return [
        Claim(
            claim="RQ-Kmeans reconstructs better than the best RQ-VAE at every seed",
            holds=_all_above(error[best], error[OURS]),
            figures=error,
        ),
        Claim(
            claim="RQ-Kmeans uses every code of every level at every seed",
            holds=all(share == 1.0 for levels in used[OURS] for share in levels),
            figures=used,
        ),
        Claim(
            claim="level-1 entropy of RQ-Kmeans is above the best RQ-VAE's at every seed (levels 2-3 are reported)",
            holds=_all_above(first[OURS], first[best]),
            figures=entropy,
        ),
    ]


def _claims_on_balance(reports: Reports, balanced: list[Fitted], scale: Scale) -> list[Claim]:
    """Sizes, entropies, collisions and reconstruction of balanced k-means against RQ-Kmeans, seed by seed."""
    sizes = [[np.bincount(column, minlength=scale.codes) for column in fit.sids.T] for fit in balanced]
    apart = [[int(count.max() - count.min()) for count in levels] for levels in sizes]
    entropy = {name: _column(reports[name], "entropy_nats") for name in (BALANCED, OURS)}
    most = _most_entropy(reports[OURS][0].items, scale.codes)
    finer = [_all_above(ours[1:], theirs[1:]) for ours, theirs in zip(entropy[BALANCED], entropy[OURS], strict=True)]
    collisions = {name: _column(reports[name], "collision_rate") for name in (BALANCED, OURS)}
    return [
        Claim(
            claim="balanced: the sizes of a level's clusters differ by at most one, at every level and seed",
            holds=max(value for levels in apart for value in levels) <= 1,
            figures={"largest minus smallest": apart},
        ),
        Claim(
            claim="balanced: level-1 entropy is the most that sizes of floor and ceil of items / codes have",
            holds=all(abs(levels[0] - most) < 1e-9 for levels in entropy[BALANCED]),
            figures={"most": most, "ln codes": float(np.log(scale.codes)), BALANCED: [e[0] for e in entropy[BALANCED]]},
        ),
        Claim(
            claim="balanced: entropy of levels 2-3 is above RQ-Kmeans' at every seed",
            holds=all(finer),
            figures=entropy,
        ),
        Claim(
            claim="balanced: fewer collisions than RQ-Kmeans at every seed",
            holds=_all_above(collisions[OURS], collisions[BALANCED]),
            figures=collisions,
        ),
    ]


def _balance_where_divisible(vectors: Floats, scale: Scale, on_progress: Say) -> Claim:
    """Level 1 of as many items as the codes divide."""
    rows = len(vectors) // scale.codes * scale.codes
    on_progress(f"balanced, the first {rows:,} items")
    fits = [
        fit_quantizer(vectors[:rows], TokenizerSettings(method="balanced"), scale.codes, 1, seed, on_progress)
        for seed in scale.seeds
    ]
    entropy = [assess(fit.quantizer, vectors[:rows], fit.sids).entropy_nats[0] for fit in fits]
    return Claim(
        claim="balanced: level-1 entropy is ln(codes) where the codes divide the items",
        holds=all(abs(value - np.log(scale.codes)) < 1e-9 for value in entropy),
        figures={"items": rows, "ln codes": float(np.log(scale.codes)), BALANCED: entropy},
    )


def _dedup(vectors: Floats, fits: list[Fitted], scale: Scale) -> dict[str, list[dict[str, float]]]:
    """Each way to give items an SID of their own, at every seed: what it leaves shared and what it costs."""
    out: dict[str, list[dict[str, float]]] = {}
    levels = scale.levels
    for fit in fits:
        options = {
            "none": (fit.sids, levels),
            "next_best": (next_best(fit.quantizer, vectors, fit.sids), levels),
            "append_level": (append_level(fit.sids, scale.codes), levels),
            "append_level in place of the last": (append_level(fit.sids[:, :-1], scale.codes), levels - 1),
        }
        for name, (sids, coded) in options.items():
            out.setdefault(name, []).append(_cost(fit, vectors, sids, coded))
    return out


def _cost(fit: Fitted, vectors: Floats, sids: Codes, coded: int) -> dict[str, float]:
    """What SIDs leave shared, and what they cost beside a fit's own; their first ``coded`` levels are the quantizer's."""
    bucket = np.bincount(prefix_groups(sids)[-1])
    own = reconstruction_mse(fit.quantizer, vectors, fit.sids)
    return {
        "shared_share": float(bucket[bucket > 1].sum() / len(sids)),
        "collision_rate": 1.0 - len(bucket) / len(sids),
        "largest_bucket": int(bucket.max()),
        "moved_share": float((sids[:, :coded] != fit.sids[:, :coded]).any(1).mean()),
        "added_error": reconstruction_mse(fit.quantizer, vectors, sids[:, :coded]) / own - 1.0,
    }


def _claims_on_dedup(dedup: dict[str, list[dict[str, float]]]) -> list[Claim]:
    """What each option is good for."""
    shared = {name: [cost["shared_share"] for cost in costs] for name, costs in dedup.items()}
    moved = {name: [cost["moved_share"] for cost in costs] for name, costs in dedup.items()}
    added = {name: [cost["added_error"] for cost in costs] for name, costs in dedup.items()}
    return [
        Claim(
            claim="dedup: append_level leaves no item without an SID of its own and moves none, for one level more",
            holds=max(shared["append_level"]) == max(moved["append_level"]) == 0.0,
            figures={"shared": shared["append_level"], "moved": moved["append_level"]},
        ),
        Claim(
            claim="dedup: at equal length next_best leaves no item without an SID of its own for less added"
            " reconstruction error than append_level in place of the last level",
            holds=max(shared["next_best"]) == 0.0
            and _all_above(added["append_level in place of the last"], added["next_best"]),
            figures={"shared": shared, "moved": moved, "added error": added},
        ),
    ]


def _rival_name(settings: RqVaeSettings) -> str:
    warm = f", {settings.warm_up} of them warm-up" if settings.warm_up else ""
    return f"rq_vae, latent {settings.latent}, rate {settings.learning_rate:g}, {settings.epochs} epochs{warm}"


def _column(reports: list[TokenizerReport], name: str, level: int | None = None) -> list[Any]:
    """A figure at every seed: of one level, or of all."""
    values = [getattr(report, name) for report in reports]
    return values if level is None else [value[level] for value in values]


def _all_above(higher: Sequence[float], lower: Sequence[float]) -> bool:
    return all(high > low for high, low in zip(higher, lower, strict=True))


def _most_entropy(items: int, codes: int) -> float:
    """Of clusters whose sizes are floor and ceil of items / codes, nats."""
    size, larger = divmod(items, codes)
    share = np.repeat([(size + 1) / items, size / items], [larger, codes - larger])
    return float(-(share * np.log(share)).sum())


def _figures(report: TokenizerReport) -> dict[str, Any]:
    return report.model_dump(exclude={"items", "codes", "levels", "bucket_sizes"})
