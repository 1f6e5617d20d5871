"""Many groups at once give what each gives alone, by the plain algorithm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.small_kmeans import ROUNDS, Floats, Ints, kmeans_labels, nearest_of_fitted


def plain(points: Floats, clusters: int) -> tuple[Ints, Floats]:
    """Lloyd's algorithm of one group, a step at a time: labels and centroids."""
    rng = np.random.default_rng(len(points))
    chosen = [0]
    distance = ((points - points[0]) ** 2).sum(1)
    while len(chosen) < clusters and distance.any():
        mass = np.cumsum(distance, dtype=np.float64)
        chosen.append(min(int(np.searchsorted(mass, rng.random() * mass[-1], side="right")), len(points) - 1))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
    centroids = points[chosen]
    labels = np.argmin(((points[:, None] - centroids) ** 2).sum(2), 1)
    for _ in range(ROUNDS):
        centroids = np.stack([points[labels == k].mean(0) if (labels == k).any() else c for k, c in enumerate(centroids)])
        updated = np.argmin(((points[:, None] - centroids) ** 2).sum(2), 1)
        labels = updated
    return updated, centroids


@given(st.lists(st.tuples(st.integers(1, 80), st.integers(1, 6)), min_size=1, max_size=12), st.integers(0, 999))
@settings(deadline=None, max_examples=60)
def test_many_groups_at_once_give_what_each_gives_alone(groups: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [rng.normal(size=(size, 5)).astype(np.float32) for size, _ in groups]
    sizes, clusters = (np.array(column) for column in zip(*groups, strict=True))
    expected = [plain(own, wanted)[0] for own, (_, wanted) in zip(points, groups, strict=True)]
    assert kmeans_labels(np.concatenate(points), sizes, clusters).tolist() == np.concatenate(expected).tolist()


@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_there_are_no_more_clusters_than_distinct_points(distinct: int) -> None:
    points = np.repeat(np.eye(3, dtype=np.float32)[:distinct], 4, axis=0)
    labels = kmeans_labels(np.concatenate((points, points)), np.array([len(points)] * 2), np.array([5, 1]))
    assert len(set(labels[: len(points)].tolist())) == distinct
    assert set(labels[len(points) :].tolist()) == {0}


def test_points_go_to_the_nearest_centroid_of_those_that_were_fitted() -> None:
    rng = np.random.default_rng(1)
    points = (10 * np.eye(4)[rng.integers(0, 4, 400)] + rng.normal(size=(400, 4))).astype(np.float32)
    _, centroids = plain(points[::4], 4)
    expected = np.argmin(((points[:, None] - centroids) ** 2).sum(2), 1)
    assert nearest_of_fitted(points, points[::4], 4).tolist() == expected.tolist()
