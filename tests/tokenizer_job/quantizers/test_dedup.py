"""An SID of one's own: on a whole catalogue, and for new items beside those that have one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_job.quantizers.codebooks import Codes, Floats, ResidualCodebooks
from tokenizer_job.quantizers.dedup import Dedup, append_level, next_best, place_beside
from tokenizer_job.quantizers.rq_kmeans import fit_rq_kmeans

torch.set_num_threads(1)
CODES = 4
SMALL = fit_rq_kmeans(np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32), CODES, 2, 10, seed=0)
"""16 SIDs: crowded at once."""


@dataclass
class Taken:
    """The SIDs of some items, as an index would tell."""

    sids: Codes

    def __call__(self, asked: Codes) -> npt.NDArray[np.bool_]:
        known = set(map(tuple, self.sids.tolist()))
        return np.array([tuple(sid) in known for sid in asked.tolist()])


def crowd(items: int, seed: int) -> Floats:
    """Few distinct vectors, so that items collide."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(5, 3)).astype(np.float32)[rng.integers(0, 5, items)]


def clustered(items: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(12, 8))[rng.integers(0, 12, items)] * 3 + rng.normal(size=(items, 8))).astype(np.float32)


def test_spreading_leaves_no_shared_sid_and_touches_only_crowded_prefixes() -> None:
    vectors = np.concatenate([clustered(500), np.repeat(clustered(3, seed=9), 5, axis=0)])
    model = fit_rq_kmeans(vectors, codes=16, levels=3, iterations=10, seed=0)
    sids = model.encode(vectors)
    spread = next_best(model, vectors, sids)
    assert len(np.unique(sids, axis=0)) < len(vectors) - 10
    prefixes, prefix, sizes = np.unique(sids[:, :2], axis=0, return_inverse=True, return_counts=True)
    assert (spread[:, :2] == sids[:, :2]).all()
    for group in range(len(prefixes)):
        rows = np.flatnonzero(prefix == group)
        shared = np.unique(spread[rows, 2], return_counts=True)[1].max()
        assert shared <= -(-sizes[group] // 16)
        if len(np.unique(sids[rows, 2])) == len(rows):
            np.testing.assert_array_equal(spread[rows], sids[rows])


def test_spreading_chooses_the_cheapest_matching() -> None:
    model = ResidualCodebooks(np.array([[[0.0], [100.0]], [[0.0], [4.0]]], np.float32))
    vectors = np.array([[0.0], [1.0]], np.float32)
    sids = model.encode(vectors)
    assert sids.tolist() == [[0, 0], [0, 0]]
    assert next_best(model, vectors, sids).tolist() == [[0, 0], [0, 1]]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=40), st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_an_appended_level_numbers_the_items_of_a_bucket(pairs: list[tuple[int, int]], codes: int) -> None:
    sids = np.array(pairs, np.int32).reshape(-1, 2)
    longer = append_level(sids, codes)
    np.testing.assert_array_equal(longer[:, :2], sids)
    for bucket in np.unique(sids, axis=0):
        numbers = longer[(sids == bucket).all(1), 2]
        np.testing.assert_array_equal(numbers, np.arange(len(numbers)) % codes)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 999), st.sampled_from(["next_best", "append_level"]))
@settings(deadline=None, max_examples=100)
def test_new_items_take_what_is_free_in_order(old: int, new: int, seed: int, dedup: Dedup) -> None:
    vectors = crowd(old + new, seed)
    nearest = SMALL.encode(vectors)
    if dedup == "next_best":
        present, wanted = nearest[:old], nearest[old:, :1]
    else:
        present, wanted = append_level(nearest[:old], CODES), nearest[old:]
    placed = place_beside(SMALL, vectors[old:], Taken(present), dedup)
    taken = set(map(tuple, present.tolist()))
    assert placed.shape == (new, 2 if dedup == "next_best" else 3)
    np.testing.assert_array_equal(placed[:, :-1], wanted)
    for row, sid in enumerate(map(tuple, placed.tolist())):
        free = [code for code in range(CODES) if (*sid[:-1], code) not in taken]
        own = nearest[old + row]
        if dedup == "append_level":
            assert sid[-1] == (free[0] if free else CODES - 1)
        elif own[-1] in free or not free:
            assert sid == tuple(own)
        else:
            distance = SMALL.last_level_distances(vectors[old + row][None], own[None])[0]
            assert sid[-1] in free
            assert distance[sid[-1]] == min(distance[free])
        taken.add(sid)


def test_placing_one_by_one_gives_what_placing_together_gives() -> None:
    vectors = crowd(14, seed=3)
    together = place_beside(SMALL, vectors, Taken(np.empty((0, 2), np.int32)))
    alone = np.empty((0, 2), np.int32)
    for vector in vectors:
        alone = np.concatenate([alone, place_beside(SMALL, vector[None], Taken(alone))])
    np.testing.assert_array_equal(together, alone)


def test_without_dedup_new_items_share() -> None:
    vectors = crowd(6, seed=4)
    np.testing.assert_array_equal(place_beside(SMALL, vectors, Taken(SMALL.encode(vectors)), "none"), SMALL.encode(vectors))
