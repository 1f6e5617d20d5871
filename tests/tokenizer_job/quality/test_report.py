"""The quality report against values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tokenizer_job.quality.report import assess
from tokenizer_job.quantizers.rq_kmeans import RqKmeans


def test_figures_by_hand() -> None:
    model = RqKmeans(np.array([[[0.5], [10.5]], [[-0.5], [0.5]]], np.float32))
    vectors = np.array([[0], [1], [1], [11]], np.float32)
    sids = np.array([[0, 0], [0, 1], [0, 1], [1, 0]], np.int32)  # the last item's last code is not its nearest
    report = assess(model, vectors, sids)
    assert report.reconstruction_mse == [0.25, 0.25]
    assert report.utilisation == [1.0, 1.0]
    assert report.entropy_nats == pytest.approx([0.75 * math.log(4 / 3) + 0.25 * math.log(4), math.log(2)])
    assert (report.collision_rate, report.shared_share, report.largest_bucket) == (0.25, 0.5, 2)
    assert report.moved_share == 0.25


def test_an_unused_code_lowers_utilisation() -> None:
    model = RqKmeans(np.arange(8, dtype=np.float32).reshape(2, 4, 1))
    report = assess(model, np.zeros((3, 1), np.float32), np.zeros((3, 2), np.int32))
    assert report.utilisation == [0.25, 0.25]
    assert report.entropy_nats == [0.0, 0.0]
