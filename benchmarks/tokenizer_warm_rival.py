"""RQ-Kmeans reconstructs better than an RQ-VAE that was kept from collapsing, too; its level-1 entropy is not higher then.

`tokenizer_quality` follows the recipe of the comparison in the OneRec technical report, by which the rival's first level
collapses on this data. Here the rival's autoencoder learns for ten of its epochs before its codebooks start from k-means:
a stronger rival than the recipe's, with every code in use.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.beauty import read_categories, read_vectors
from benchmarks.harness import BenchResult
from benchmarks.tokenizer_quality import Scale, compare
from common.settings import RqVaeSettings

WARM = RqVaeSettings(latent=64, learning_rate=1e-3, epochs=60, warm_up=10)


def run(data: Path, on_progress: Callable[[str], None]) -> BenchResult:
    """The comparison of `tokenizer_quality` with the one warmed-up rival; takes minutes."""
    result = compare(read_vectors(data), read_categories(data), Scale(rivals=(WARM,)), on_progress)
    return result.model_copy(update={"name": "tokenizer-warm-rival"})
