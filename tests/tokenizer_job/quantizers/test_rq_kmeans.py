"""Residual k-means: known answers, repeatability, full use of the codebooks, and SIDs of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tokenizer_job.quantizers.codebooks import Floats, ResidualCodebooks
from tokenizer_job.quantizers.rq_kmeans import fit_rq_kmeans

torch.set_num_threads(1)
PAIRS = np.array([[0], [1], [10], [11]], np.float32)


def clustered(items: int = 600, width: int = 8, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(12, width))[rng.integers(0, 12, items)] * 3 + rng.normal(size=(items, width))).astype(
        np.float32
    )


def error(model: ResidualCodebooks, vectors: Floats, levels: int) -> float:
    return float(((vectors - model.decode(model.encode(vectors)[:, :levels])) ** 2).mean())


def test_two_pairs_are_exact_after_two_levels() -> None:
    model = fit_rq_kmeans(PAIRS, codes=2, levels=2, iterations=25, seed=0)
    assert sorted(model.codebooks[0].ravel().tolist()) == [0.5, 10.5]
    assert sorted(model.codebooks[1].ravel().tolist()) == [-0.5, 0.5]
    assert error(model, PAIRS, 1) == 0.25
    assert error(model, PAIRS, 2) == 0.0


def test_reconstruction_error_does_not_rise_with_the_level() -> None:
    vectors = clustered()
    model = fit_rq_kmeans(vectors, codes=16, levels=4, iterations=10, seed=1)
    errors = [float((vectors**2).mean()), *(error(model, vectors, level) for level in (1, 2, 3, 4))]
    assert errors == sorted(errors, reverse=True)
    assert errors[4] < 0.2 * errors[1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_code_is_in_use(seed: int) -> None:
    vectors = clustered(seed=seed)
    sids = fit_rq_kmeans(vectors, codes=64, levels=3, iterations=5, seed=seed).encode(vectors)
    assert sids.dtype == np.int32
    assert [len(np.unique(codes)) for codes in sids.T] == [64, 64, 64]


def test_the_same_seed_gives_the_same_codebooks_and_the_disk_keeps_them(tmp_path: Path) -> None:
    vectors = clustered()
    first, second = (fit_rq_kmeans(vectors, codes=16, levels=3, iterations=5, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.codebooks, second.codebooks)
    first.save(tmp_path / "codebooks.safetensors")
    read = ResidualCodebooks.load(tmp_path / "codebooks.safetensors")
    np.testing.assert_array_equal(read.encode(vectors), first.encode(vectors))


def test_encode_chooses_the_nearest_code_level_by_level() -> None:
    vectors = clustered(100)
    model = fit_rq_kmeans(vectors, codes=8, levels=2, iterations=5, seed=0)
    residual = clustered(40, seed=5)
    for codebook, codes in zip(model.codebooks, model.encode(residual).T, strict=True):
        distance = ((residual[:, None] - codebook[None]) ** 2).sum(2)
        np.testing.assert_array_equal(codes, distance.argmin(1))
        residual = residual - codebook[codes]


def test_more_codes_than_distinct_points_is_an_error_with_both_numbers() -> None:
    vectors = np.repeat(clustered(5), 4, axis=0)
    with pytest.raises(ValueError, match="level 1 has 5 distinct points for 6 codes"):
        fit_rq_kmeans(vectors, codes=6, levels=2, iterations=5, seed=0)
