"""The encode benchmark at a small scale: figures arrive and the checks can see a wrong label."""

from __future__ import annotations

import pytest

from benchmarks import tokenizer_encode as bench
from benchmarks.tokenizer_fit import Scale, clustered_vectors
from tokenizer_job.quantizers.rq_kmeans import fit_rq_kmeans

pytest.importorskip("faiss")


def test_a_small_run_measures_and_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ALONE", 20)
    result = bench.compare(Scale(items=1500, width=8, codes=16, levels=2, runs=2), lambda _: None)
    assert result.floor is not None
    assert 0 < result.floor.value < result.value
    assert result.details["rows_that_differ"]["brute force"] == 0
    assert result.details["claims"][1].holds


def test_brute_force_is_another_path_to_the_same_labels() -> None:
    vectors = clustered_vectors(300, 8, seed=0)
    model = fit_rq_kmeans(vectors, codes=8, levels=2, iterations=3, seed=0)
    assert (bench.brute_force(model, vectors) == model.encode(vectors)).all()
    assert (bench.brute_force(model, -vectors) != model.encode(vectors)).any()
