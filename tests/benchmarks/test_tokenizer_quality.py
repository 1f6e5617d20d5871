from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness import BenchResult, Claim
from benchmarks.tokenizer_quality import Scale, compare
from common.settings import RqVaeSettings

SCALE = Scale(codes=8, levels=3, seeds=(0, 1), rivals=[RqVaeSettings(latent=2, hidden=[8], epochs=1, batch=64)])


@pytest.fixture(scope="module")
def result() -> BenchResult:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 6))
    vectors = (centres[rng.integers(0, 20, 203)] + 0.2 * rng.normal(size=(203, 6))).astype(np.float32)
    return compare(vectors, [f"category {row % 5}" for row in range(203)], SCALE, lambda _: None)


def test_the_ratio_is_of_errors_and_the_rival_the_best_setting(result: BenchResult) -> None:
    assert result.rival is not None
    assert result.ratio is not None
    assert result.spread is not None
    assert result.ratio == pytest.approx(result.rival / result.value)
    assert result.spread[0] <= result.ratio <= result.spread[1]
    assert result.details["best_rival"] == "rq_vae, latent 2, rate 0.001, 1 epochs"


def test_every_seed_of_every_method_is_shown(result: BenchResult) -> None:
    assert {name: len(each) for name, each in result.details["methods"].items()} == {
        "rq_kmeans": 2,
        "balanced": 2,
        "rq_vae, latent 2, rate 0.001, 1 epochs": 2,
    }
    assert all(len(each) == 2 for each in result.details["dedup_of_rq_kmeans"].values())


def test_what_holds_by_construction_holds(result: BenchResult) -> None:
    claims: list[Claim] = result.details["claims"]
    by_construction = ("uses every code", "differ by at most one", "floor and ceil", "divide the items")
    for words in by_construction:
        assert [claim.holds for claim in claims if words in claim.claim] == [True], words


def test_an_untrained_rival_reconstructs_worse(result: BenchResult) -> None:
    assert result.ratio is not None
    assert result.ratio > 1
