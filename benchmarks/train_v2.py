"""OneRec-V2's 1B: a training step in bf16 takes less time than in plain fp32, and with compiled blocks less still.

As `benchmarks.train`, with five targets to a context as on the reports' platform. Needs a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import BenchResult
from benchmarks.train import Scale, measure, require_gpu

SCALE = Scale("v2-1b", contexts=512, targets=5)


def run(data: Path, on_progress: Callable[[str], None]) -> BenchResult:  # noqa: ARG001 - the contexts are synthetic
    """One batch of 512 contexts, again and again."""
    require_gpu("train-v2", SCALE.profile)
    return measure("train-v2", SCALE, on_progress)
