from __future__ import annotations

import numpy as np
import pytest

from common.policy import build_policy
from common.settings import PolicySettings
from rollout.engine import GenerationEngine
from rollout.evaluation import (
    Baselines,
    EvaluationSet,
    EvaluationUser,
    IntArray,
    Rankings,
    rank_items,
    rank_sids,
    rank_users,
    retrieval_scores,
)
from tests.rollout.evaluation.tiny_catalogue import CODES, beam, context, five_items

NONE = np.empty(0, np.int64)
FOUND = beam(([0, 0, 0], 0.5), ([2, 2, 2], 0.3), ([1, 0, 0], 0.2), ([3, 3, 3], 0.0625))
"""A free beam: the shared semantic ID, an illegal one, then those of items 12 and 14."""


def rows(*items: int) -> IntArray:
    return five_items().rows(list(items))


def one_user(target: int, seen: IntArray = NONE) -> EvaluationSet:
    user = EvaluationUser(context(1, [12]), seen, rows(target), rows(target))
    return EvaluationSet([user], [rows(12)], rows(12))


def test_an_item_ranks_by_its_semantic_id_and_its_share_of_the_bucket() -> None:
    """Item 11 has 3/4 of .5, then item 12 all of .2, then item 10 a quarter of .5, then item 14."""
    index = five_items()
    assert index.item_ids[rank_items(FOUND, index, NONE, 10)].tolist() == [11, 12, 10, 14]
    assert index.item_ids[rank_items(FOUND, index, rows(12, 14), 10)].tolist() == [11, 10]
    assert index.item_ids[rank_items(FOUND, index, NONE, 2)].tolist() == [11, 12]


def test_a_beam_of_illegal_semantic_ids_ranks_nothing() -> None:
    assert rank_items(beam(([2, 2, 2], 0.9)), five_items(), NONE, 5).tolist() == []


def test_a_semantic_id_is_left_out_only_when_all_its_items_are_seen() -> None:
    index = five_items()
    shared, first, last = index.leaves(index.sids[rows(10, 12, 14)]).tolist()
    assert rank_sids(FOUND, index, NONE, 10).tolist() == [shared, -1, first, last]
    assert rank_sids(FOUND, index, rows(10, 12), 10).tolist() == [shared, -1, last]
    assert rank_sids(FOUND, index, rows(10, 11), 2).tolist() == [-1, first]


def test_a_collision_is_a_hit_by_semantic_id_and_a_later_one_by_item() -> None:
    """Target 10 shares its semantic ID, first in the beam, with the more popular 11; its own place is third."""
    index, data = five_items(), one_user(target=10)
    rankings = Rankings([rank_items(FOUND, index, NONE, 3)], [rank_sids(FOUND, index, NONE, 3)])
    scores = retrieval_scores(rankings, data, index, (1, 3))
    assert {k: scores.recall[k].tolist() for k in (1, 3)} == {1: [0.0], 3: [1.0]}
    assert {k: scores.sid_recall[k].tolist() for k in (1, 3)} == {1: [1.0], 3: [1.0]}
    assert scores.ndcg[3].tolist() == pytest.approx([0.5])
    assert scores.sid_ndcg[3].tolist() == [1.0]


def test_targets_that_share_a_semantic_id_are_one_target_at_that_level() -> None:
    index = five_items()
    user = EvaluationUser(context(1, [12]), NONE, rows(10, 11, 14), NONE)
    data = EvaluationSet([user], [], NONE)
    rankings = Rankings([rows(11, 12)], [index.leaves(index.sids[rows(11, 12)])])
    scores = retrieval_scores(rankings, data, index, (2,))
    assert scores.recall[2].tolist() == [1 / 3]
    assert scores.sid_recall[2].tolist() == [1 / 2]


def test_without_collisions_both_levels_agree_for_any_policy() -> None:
    policy = build_policy(PolicySettings(d_model=16, heads=2, ffn=16, codes=CODES))
    index = five_items().without(2, [10])
    users = [
        EvaluationUser(context(u, [12, 14]), index.rows([12]), index.rows([t]), NONE) for u, t in enumerate((11, 13, 14))
    ]
    data = EvaluationSet(users, [], NONE)
    rankings = rank_users(GenerationEngine(policy, index, 16, constrained=True), data, 4, batch=2)
    scores = retrieval_scores(rankings, data, index, (1, 2, 4))
    for k in (1, 2, 4):
        np.testing.assert_array_equal(scores.recall[k], scores.sid_recall[k])
        np.testing.assert_array_equal(scores.ndcg[k], scores.sid_ndcg[k])
    assert scores.recall[4].tolist() == [1, 1, 1]


def test_baselines_rank_items_and_the_semantic_ids_of_their_best_items() -> None:
    """Neighbours of 12 are 10 and 11, who share a semantic ID; the recent positives are 14, 14 and 13."""
    index = five_items()
    histories = [rows(12, 10, 11), rows(12, 10), rows(13)]
    data = EvaluationSet([EvaluationUser(context(1, [12]), rows(12), rows(13), NONE)], histories, rows(14, 14, 13))
    ranked = Baselines(data, index).rank(data.users, 2)
    leaf = dict(zip(index.item_ids.tolist(), index.leaves(index.sids).tolist(), strict=True))
    assert index.item_ids[ranked["popularity"].items[0]].tolist() == [14, 13]
    assert index.item_ids[ranked["itemknn"].items[0]].tolist() == [10, 11]
    assert ranked["itemknn"].sids[0].tolist() == [leaf[10], leaf[13]]


def test_item_knn_knows_what_a_user_watched_even_if_nothing_is_masked() -> None:
    index = five_items()
    data = EvaluationSet([EvaluationUser(context(1, [14]), NONE, rows(13), NONE)], [rows(14, 13), rows(10, 12)], NONE)
    assert index.item_ids[Baselines(data, index).rank(data.users, 1)["itemknn"].items[0]].tolist() == [13]
    seen = EvaluationSet([EvaluationUser(context(1, [14]), rows(13), rows(13), NONE)], data.histories, NONE)
    unmasked = Baselines(seen, index).rank(seen.users, 1, mask_seen=False)
    assert index.item_ids[unmasked["itemknn"].items[0]].tolist() == [13]
