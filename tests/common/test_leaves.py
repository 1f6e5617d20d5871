"""Kept leaves are those that compression gives, whoever was asked about before."""

from __future__ import annotations

import numpy as np
import pytest

from common import leaves
from common.leaves import LeafCache, leaf_tags
from common.lifelong import Floats, Ints, compress
from tests.factories import make_index

INDEX = make_index()


def histories(*sizes: int) -> tuple[Ints, Ints, Ints]:
    rng = np.random.default_rng(sum(sizes))
    return rng.integers(0, len(INDEX), sum(sizes)), np.sort(rng.integers(1, 10**12, sum(sizes))), np.array(sizes)


def test_leaves_are_those_of_the_histories_in_their_order_from_the_cache_or_not() -> None:
    rows, times, sizes = histories(30, 0, 50, 7)
    cache = LeafCache(INDEX, 6)
    leaf_of, representative = compress(INDEX.vectors[rows], times, 6, sizes)
    cache.of(rows[:30], times[:30], np.array([30]))
    for _ in range(2):
        found = cache.of(rows, times, sizes)
        assert found.leaf_of.tolist() == leaf_of.tolist()
        assert found.representative.tolist() == representative.tolist()
        assert found.sizes[1] == 0
        assert found.sizes.sum() == len(representative) == len(found.tags) == len(found.tag_weight)


def test_only_what_is_not_kept_is_compressed_and_the_longest_unused_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counting(vectors: Floats, time_ms: Ints, length: int, sizes: Ints) -> tuple[Ints, Ints]:
        asked.append(len(sizes))
        return compress(vectors, time_ms, length, sizes)

    monkeypatch.setattr(leaves, "compress", counting)
    monkeypatch.setattr(leaves, "CACHED_HISTORIES", 2)
    cache, (rows, times, sizes) = LeafCache(INDEX, 6), histories(30, 20)
    cache.of(rows, times, sizes)
    cache.of(rows[:30], times[:30], sizes[:1])
    cache.of(*histories(40))  # the second history goes
    cache.of(rows[:30], times[:30], sizes[:1])
    cache.of(rows, times, sizes)
    assert asked == [2, 1, 1]


def test_a_leafs_tags_are_the_mean_of_its_events_tags() -> None:
    """Leaf 0: {3, 5} and {3} give 3 three quarters and 5 one; leaf 1 has no tag; leaf 2 keeps its heaviest 8."""
    tags = np.array([[3, 5], [3, -1], [-1, -1], *([k, k + 20] for k in range(6)), [2, -1]])
    found, weight = leaf_tags(tags, np.array([0, 0, 1, *[2] * 7]), 3)
    assert found[0, :3].tolist() == [3, 5, -1]
    np.testing.assert_allclose(weight[0, :3], [0.75, 0.25, 0.0])
    assert (found[1] == -1).all()
    assert not weight[1].any()
    assert found[2].tolist() == [2, 0, 1, 3, 4, 5, 20, 21]
    assert weight[2, 0] == weight[2].max() > weight[2, 1]
    np.testing.assert_allclose(weight.sum(1), [1.0, 0.0, 1.0], rtol=1e-6)
