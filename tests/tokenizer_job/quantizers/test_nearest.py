"""The nearest centroid: exact, whatever the rounding of float32, and the same for a point in any company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenizer_job.quantizers.nearest import assign

torch.set_num_threads(1)


def oracle(points: Tensor, centroids: Tensor) -> Tensor:
    """By float64 differences between every point and every centroid."""
    return ((points.double()[:, None] - centroids.double()[None]) ** 2).sum(2).argmin(1)


@given(
    st.integers(1, 60),
    st.integers(1, 40),
    st.integers(1, 24),
    st.sampled_from([1e-12, 1e-3, 1.0, 1e4, 1e12]),
    st.sampled_from([0.0, 1.0, 1e3, 1e7]),
    st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=120)
def test_labels_are_those_of_exact_arithmetic(
    points: int, centroids: int, width: int, scale: float, offset: float, seed: int
) -> None:
    """Far from the origin float32 products know nothing about the distances; few distinct values make ties."""
    generator = torch.Generator().manual_seed(seed)
    x, c = (torch.randint(-3, 4, (n, width), generator=generator).float() for n in (points, centroids))
    x += torch.randn(x.shape, generator=generator) * (seed % 2) * 1e-6
    x, c = (x + offset) * scale, (c + offset) * scale
    labels = assign(x, c)
    assert torch.equal(labels, oracle(x, c))
    assert torch.equal(labels, torch.cat([assign(row[None], c) for row in x]))


def test_float32_distances_alone_would_be_wrong_here() -> None:
    """The guard of the test above: the same kind of data fools a plain float32 search."""
    generator = torch.Generator().manual_seed(0)
    x, c = (torch.randn(n, 16, generator=generator) * 1e-3 + 100 for n in (300, 40))
    plain = ((c**2).sum(1) - 2 * x @ c.T).argmin(1)
    assert (plain != oracle(x, c)).float().mean() > 0.3
    assert torch.equal(assign(x, c), oracle(x, c))


def test_one_far_centroid_and_one_far_point_cost_the_others_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    x, c = torch.randn(200, 8, generator=generator), torch.randn(30, 8, generator=generator)
    x[7], c[3] = 1e15, -1e15
    assert torch.equal(assign(x, c), oracle(x, c))


@pytest.mark.parametrize("rows", [1, 2, 31, 1000])
def test_labels_do_not_depend_on_the_rows_around(rows: int) -> None:
    generator = torch.Generator().manual_seed(2)
    c = torch.randn(64, 48, generator=generator)
    # Halfway between two centroids, up to rounding: every product decides differently, differences do not.
    x = (c[torch.arange(1000) % 64] + c[torch.arange(1000) * 7 % 64]) / 2
    assert torch.equal(torch.cat([assign(part, c) for part in x.split(rows)]), oracle(x, c))


def test_more_distances_than_fit_one_block() -> None:
    generator = torch.Generator().manual_seed(3)
    x, c = torch.randn(2500, 4, generator=generator), torch.randn(1024, 4, generator=generator)
    np.testing.assert_array_equal(assign(x, c)[::50], oracle(x[::50], c))
