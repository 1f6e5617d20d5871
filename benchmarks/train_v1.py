"""OneRec-V1's 0.935B: a training step in bf16 takes less time than in plain fp32, and with compiled blocks less still.

As `benchmarks.train`, with five targets to a context as on the reports' platform. Needs a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import BenchResult
from benchmarks.train import Scale, measure, require_gpu

SCALE = Scale("v1-0.935b", contexts=64, targets=5)


def run(data: Path, on_progress: Callable[[str], None]) -> BenchResult:  # noqa: ARG001 - the contexts are synthetic
    """One batch of 64 contexts, again and again."""
    require_gpu("train-v1", SCALE.profile)
    return measure("train-v1", SCALE, on_progress)
