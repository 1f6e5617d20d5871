"""faiss runs Lloyd's algorithm under the contract of our own: full use, exact labels, repeatable."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tokenizer_job.quantizers.kmeans import fit_kmeans
from tokenizer_job.quantizers.nearest import assign, squared_distance
from tokenizer_job.quantizers.rq_kmeans import fit_rq_kmeans
from tokenizer_job.quantizers.start import choose_start

pytest.importorskip("faiss")
from tokenizer_job.quantizers.lloyd_faiss import fit_kmeans_faiss

torch.set_num_threads(1)


def test_the_contract_holds_and_the_error_is_that_of_our_own() -> None:
    points = torch.randn(1500, 6, generator=torch.Generator().manual_seed(0))
    start = choose_start(points, 40, torch.Generator().manual_seed(1))
    errors = []
    for lloyd in (fit_kmeans, fit_kmeans_faiss):
        centroids, labels = lloyd(points, start, 15, lambda _: None)
        assert torch.equal(labels, assign(points, centroids))
        assert set(labels.tolist()) == set(range(40))
        errors.append(float(squared_distance(points.numpy(), centroids[labels].numpy()).mean()))
    assert errors[1] == pytest.approx(errors[0], rel=0.02)


def test_a_start_that_repeats_one_point_is_repaired_to_full_use() -> None:
    points = torch.randn(100, 3, generator=torch.Generator().manual_seed(3))
    _, labels = fit_kmeans_faiss(points, points[:1].repeat(40, 1), 5)
    assert set(labels.tolist()) == set(range(40))


def test_the_same_seed_gives_the_same_codebooks() -> None:
    vectors = np.random.default_rng(0).normal(size=(800, 5)).astype(np.float32)
    first, second = (fit_rq_kmeans(vectors, 32, 3, 5, seed=2, lloyd=fit_kmeans_faiss) for _ in range(2))
    assert first.fingerprint() == second.fingerprint()
    assert first.fingerprint() != fit_rq_kmeans(vectors, 32, 3, 5, seed=3, lloyd=fit_kmeans_faiss).fingerprint()
