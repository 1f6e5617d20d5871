"""The fit benchmark at a small scale: both rivals run on the same vectors and their figures arrive."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.tokenizer_fit import Scale, clustered_vectors, compare

pytest.importorskip("faiss")


def test_a_small_run_compares_time_and_error() -> None:
    result = compare(Scale(items=2000, width=8, codes=16, levels=2, iterations=5, runs=2), lambda _: None)
    assert result.rival is not None
    assert result.ratio == pytest.approx(result.rival / result.value)
    errors = result.details["squared_error"]
    assert [len(values) for values in errors.values()] == [2, 2, 1]
    for value in [value for values in errors.values() for value in values]:
        assert 0.3 * errors["ours"][0] < value < 3 * errors["ours"][0]
    assert errors["ours"][0] != errors["ours"][1]  # another seed in each run


def test_the_vectors_are_clustered_rows_of_length_one() -> None:
    vectors = clustered_vectors(1000, 32, seed=0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    assert np.median(similarity.max(1)) > 0.5  # of two random directions in 32 dimensions: 0.18 in the mean
