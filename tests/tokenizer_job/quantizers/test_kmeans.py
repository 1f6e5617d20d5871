"""k-means: known answers, no empty cluster, and labels that a later assignment repeats."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenizer_job.quantizers import kmeans
from tokenizer_job.quantizers.kmeans import fit_kmeans
from tokenizer_job.quantizers.nearest import assign
from tokenizer_job.quantizers.start import choose_start

torch.set_num_threads(1)


def line(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1)


@pytest.mark.parametrize("start", [(0.0, 1.0), (10.0, 11.0), (0.0, 11.0), (1.0, 0.0)])
def test_two_pairs_on_a_line_from_any_start(start: tuple[float, float]) -> None:
    points = line(0, 1, 10, 11)
    centroids, labels = fit_kmeans(points, line(*start), 25)
    assert sorted(centroids.flatten().tolist()) == [0.5, 10.5]
    assert labels[0] == labels[1] != labels[2] == labels[3]


def test_ties_go_to_the_lowest_index() -> None:
    assert assign(line(0, 5), line(1, -1, 1, 9)).tolist() == [0, 0]


def test_assignment_is_the_nearest_centroid_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(1)
    points, centroids = (torch.randn(n, 7, generator=generator) for n in (200, 20))
    expected = ((points[:, None] - centroids[None]) ** 2).sum(2).argmin(1)
    assert torch.equal(assign(points, centroids), expected)


def test_permuted_points_give_the_same_centroids() -> None:
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(300, 4, generator=generator)
    order = torch.randperm(300, generator=generator)
    first, labels = fit_kmeans(points, points[:10], 25)
    second, permuted = fit_kmeans(points[order], points[:10], 25)
    torch.testing.assert_close(first, second)
    assert torch.equal(labels[order], permuted)


@given(st.lists(st.integers(-20, 20), min_size=3, max_size=60), st.integers(0, 99), st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_every_cluster_is_in_use_up_to_one_per_distinct_point(values: list[int], seed: int, iterations: int) -> None:
    points = line(*values)
    clusters = len(set(values))
    generator = torch.Generator().manual_seed(seed)
    centroids, labels = fit_kmeans(points, choose_start(points, clusters, generator), iterations)
    assert sorted(set(labels.tolist())) == list(range(clusters))
    assert torch.equal(centroids[labels], points)  # as many clusters as distinct points: no error is left


def test_a_start_that_repeats_one_point_is_repaired_to_full_use() -> None:
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(100, 3, generator=generator)
    centroids, labels = fit_kmeans(points, points[:1].repeat(40, 1), 25)
    assert set(labels.tolist()) == set(range(40))
    assert torch.equal(assign(points, centroids), labels)


def test_points_that_differ_in_the_last_bit_stay_apart() -> None:
    near = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)).item()
    centroids, labels = fit_kmeans(line(1.0, near, 1.0), line(1.0, 1.0), 5)
    assert labels[0] == labels[2] != labels[1]
    assert centroids[labels].flatten().tolist() == [1.0, near, 1.0]


def test_the_start_spreads_over_separated_groups() -> None:
    points = torch.cat([torch.randn(50, 2, generator=torch.Generator().manual_seed(g)) + 1e4 * g for g in range(5)])
    start = choose_start(points, 5, torch.Generator().manual_seed(0))
    assert sorted((start[:, 0] / 1e4).round().tolist()) == [0, 1, 2, 3, 4]


def test_a_quarter_of_the_points_shows_the_way_as_well_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    points = torch.randn(30, 5, generator=generator)[torch.randint(30, (4000,), generator=generator)] * 2
    points += torch.randn(4000, 5, generator=generator)
    start = choose_start(points, 20, generator)
    errors = []
    for enough in (32, len(points)):
        monkeypatch.setattr(kmeans, "EARLY_PER_CLUSTER", enough)
        centroids, labels = fit_kmeans(points, start, 20)
        assert torch.equal(labels, assign(points, centroids))
        errors.append((points - centroids[labels]).square().sum(1).mean().item())
    assert errors[0] != errors[1]
    assert errors[0] == pytest.approx(errors[1], rel=0.02)
