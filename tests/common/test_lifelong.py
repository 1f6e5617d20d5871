"""Lifelong compression: leaves partition the history, stay small, and are represented by their most central event."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.lifelong import Floats, Ints, compress, cube_root, leaf_limit


def history(events: int, seed: int = 0, distinct: int = 0) -> tuple[Floats, Ints]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(distinct or events, 6)).astype(np.float32)
    rows = rng.integers(0, distinct, events) if distinct else np.arange(events)
    return vectors[rows], np.sort(rng.integers(1, 10**12, events))


def check(vectors: Floats, time_ms: Ints, target_length: int) -> None:
    leaf_of, representative = compress(vectors, time_ms, target_length)
    leaves = len(representative)
    assert leaf_of.shape == (len(vectors),)
    assert sorted(set(leaf_of.tolist())) == list(range(leaves))  # a partition without empty leaves
    assert (leaf_of[representative] == np.arange(leaves)).all()
    mean_times = []
    for leaf in range(leaves):
        members = np.flatnonzero(leaf_of == leaf)
        assert len(members) <= leaf_limit(len(vectors), target_length)
        centroid = vectors[members].astype(np.float64).mean(0)
        distance = ((vectors[members] - centroid) ** 2).sum(1)
        chosen = ((vectors[representative[leaf]] - centroid) ** 2).sum()
        assert chosen <= distance.min() * (1 + 1e-9) + 1e-12
        mean_times.append(time_ms[members].mean())
    assert mean_times == sorted(mean_times)


@pytest.mark.parametrize("events", [0, 1, 7, 8, 9, 27, 64, 1000])
@pytest.mark.parametrize("target_length", [1, 10, 2000])
def test_leaves_and_representatives(events: int, target_length: int) -> None:
    check(*history(events), target_length)


@given(st.integers(0, 300), st.integers(0, 99), st.integers(1, 50), st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_leaves_and_representatives_with_repeated_items(events: int, seed: int, distinct: int, target_length: int) -> None:
    check(*history(events, seed, distinct), target_length)


@given(st.integers(0, 10**15))
def test_cube_root_is_exact(number: int) -> None:
    assert cube_root(number) ** 3 <= number < (cube_root(number) + 1) ** 3


def test_cube_root_of_perfect_cubes() -> None:
    assert [cube_root(n**3) for n in range(1, 200)] == list(range(1, 200))
    assert [cube_root(n**3 - 1) for n in range(1, 200)] == list(range(199))


def test_identical_vectors_are_cut_into_chunks_by_time() -> None:
    time_ms = np.arange(100, dtype=np.int64)[::-1].copy()
    leaf_of, _ = compress(np.ones((100, 4), np.float32), time_ms, target_length=1000)
    for leaf in range(leaf_of.max() + 1):
        times = np.sort(time_ms[leaf_of == leaf])
        assert len(times) <= 8
        assert (np.diff(times) == 1).all()


def test_separated_groups_are_not_mixed() -> None:
    rng = np.random.default_rng(3)
    group = rng.integers(0, 5, 200)
    vectors = (100 * np.eye(5)[group] + rng.normal(size=(200, 5))).astype(np.float32)
    leaf_of, _ = compress(vectors, np.arange(200, dtype=np.int64), target_length=25)
    for leaf in range(leaf_of.max() + 1):
        assert len(set(group[leaf_of == leaf].tolist())) == 1


def test_the_same_history_gives_the_same_leaves() -> None:
    vectors, time_ms = history(500)
    first = compress(vectors, time_ms, 40)
    np.random.default_rng(1).normal(size=10)
    second = compress(vectors.copy(), time_ms.copy(), 40)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


@given(st.lists(st.integers(0, 400), min_size=1, max_size=6), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_several_histories_at_once_come_out_as_each_alone(sizes: list[int], seed: int) -> None:
    parts = [history(size, seed + k) for k, size in enumerate(sizes)]
    vectors, time_ms = (np.concatenate(column) for column in zip(*parts, strict=True))
    leaf_of, representative = compress(vectors, time_ms, 40, np.array(sizes))
    leaves, events = 0, 0
    for part in parts:
        alone, chosen = compress(*part, 40)
        assert leaf_of[events : events + len(alone)].tolist() == (alone + leaves).tolist()
        assert representative[leaves : leaves + len(chosen)].tolist() == (chosen + events).tolist()
        leaves, events = leaves + len(chosen), events + len(alone)
    assert leaves == len(representative)


def test_a_long_history_compresses_to_the_leaves_asked_for() -> None:
    vectors = np.random.default_rng(0).normal(size=(10_000, 32)).astype(np.float32)
    leaf_of, representative = compress(vectors, np.arange(10_000, dtype=np.int64), 500)
    assert len(representative) >= 500
    assert set(leaf_of.tolist()) == set(range(len(representative)))


def test_bad_arguments_are_named() -> None:
    vectors, time_ms = history(5)
    with pytest.raises(ValueError, match="target_length must be at least 1, got 0"):
        compress(vectors, time_ms, 0)
    with pytest.raises(ValueError, match="one length, got 5 and 4"):
        compress(vectors, time_ms[:4], 10)


def test_a_hundred_thousand_events_stay_within_thirty_seconds_of_processor_time() -> None:
    """Stated bound: about 2 s of one core; the rest is for BLAS threads that wait for each other on a busy machine."""
    vectors = np.random.default_rng(0).normal(size=(100_000, 64)).astype(np.float32)
    begin = time.process_time()
    leaf_of, _ = compress(vectors, np.arange(100_000, dtype=np.int64), 2000)
    assert time.process_time() - begin < 30
    assert np.bincount(leaf_of).max() <= leaf_limit(100_000, 2000)
