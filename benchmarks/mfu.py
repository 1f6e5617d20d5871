"""Training the 0.121B profile takes at least 35 % of the machine's measured matrix-product rate (MFU).

Counted are the products of active parameters and of attention, forward and twice that backward, without padding, lookups or
recomputation. The rate is the faster of fp32 and bf16 products (`common.policy.peak`), whatever precision a variant uses.
Whole steps of the trainer with features at hand, as in `benchmarks.train`; the fastest variant counts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import BenchResult, Claim
from benchmarks.train import VARIANTS, Scale, Variant, measure

AT_LEAST = 0.35
SCALE = Scale("v1-0.121b", contexts=4, targets=8, runs=3)


def run(data: Path, on_progress: Callable[[str], None]) -> BenchResult:  # noqa: ARG001 - the contexts are synthetic
    """Takes about five minutes, of which two compile."""
    return compare(SCALE, on_progress)


def compare(scale: Scale, on_progress: Callable[[str], None], variants: tuple[Variant, ...] = VARIANTS) -> BenchResult:
    """The benchmark at any scale."""
    result = measure("mfu", scale, on_progress, variants)
    share = result.details["variants"][result.details["ours"]]["utilisation"]
    claim = Claim(
        claim=f"at least {AT_LEAST:.0%} of the measured product rate",
        holds=share >= AT_LEAST,
        figures={"utilisation": share},
    )
    return result.model_copy(update={"details": result.details | {"claims": [claim, *result.details["claims"]]}})
