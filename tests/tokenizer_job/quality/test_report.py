"""The quality report against values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tokenizer_job.quality.report import assess, reconstruction_mse
from tokenizer_job.quantizers.codebooks import ResidualCodebooks

MODEL = ResidualCodebooks(np.array([[[0.5], [10.5]], [[-0.5], [0.5]]], np.float32))
VECTORS = np.array([[0], [1], [1], [11]], np.float32)


def test_figures_by_hand() -> None:
    sids = np.array([[0, 0], [0, 1], [0, 1], [1, 0]], np.int32)  # the last item's last code is not its nearest
    report = assess(MODEL, VECTORS, sids)
    assert report.variance == pytest.approx(20.1875)
    assert report.reconstruction_mse == [0.25, 0.25]
    assert report.utilisation == [1.0, 1.0]
    assert report.entropy_nats == pytest.approx([0.75 * math.log(4 / 3) + 0.25 * math.log(4), math.log(2)])
    assert report.perplexity == pytest.approx([4 / 27**0.25, 2.0])
    assert report.gini == pytest.approx([0.25, 0.0])
    assert (report.collision_rate, report.shared_share, report.largest_bucket) == (0.25, 0.5, 2)
    assert report.bucket_sizes == {1: 2, 2: 1}
    assert report.moved_share == 0.25
    assert report.prefixes is None


def test_unused_codes_show() -> None:
    model = ResidualCodebooks(np.arange(8, dtype=np.float32).reshape(2, 4, 1))
    report = assess(model, np.zeros((3, 1), np.float32), np.zeros((3, 2), np.int32))
    assert report.utilisation == [0.25, 0.25]
    assert report.entropy_nats == [0.0, 0.0]
    assert report.perplexity == [1.0, 1.0]
    assert report.gini == [0.75, 0.75]


def test_an_appended_level_counts_for_ids_but_not_for_vectors() -> None:
    sids = np.array([[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 0]], np.int32)
    report = assess(MODEL, VECTORS, sids)
    assert report.levels == 3
    assert report.reconstruction_mse == [0.25, 0.0]
    assert len(report.utilisation) == 3
    assert (report.collision_rate, report.moved_share) == (0.0, 0.0)


def test_categories_bring_purity() -> None:
    report = assess(MODEL, VECTORS, np.array([[0, 0], [0, 1], [0, 1], [1, 1]], np.int32), ["a", "b", "b", ""])
    assert report.prefixes is not None
    assert report.prefixes.purity == pytest.approx([2 / 3, 1.0])
    assert report.prefixes.without_category == 1


def test_reconstruction_is_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reconstruction_mse(MODEL, VECTORS, np.zeros((4, 1), np.int32))
    monkeypatch.setattr("tokenizer_job.quality.report.CHUNK", 3)
    assert reconstruction_mse(MODEL, VECTORS, np.zeros((4, 1), np.int32)) == whole == (0.25 * 3 + 10.5**2) / 4
