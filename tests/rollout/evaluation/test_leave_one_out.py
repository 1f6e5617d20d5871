from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from common.policy import build_policy
from common.settings import PolicySettings
from rollout.engine import GenerationEngine
from rollout.evaluation import leave_one_out, leave_one_out_set, rank_items
from tests.rollout.evaluation.tiny_catalogue import CODES, context, events, five_items

SEQUENCES = {1: events([12, 13, 14, 10]), 2: events([11, 12]), 3: events([13])}


def engine(width: int = 16) -> GenerationEngine:
    policy = build_policy(PolicySettings(d_model=16, heads=2, ffn=16, codes=CODES), seed=2)
    return GenerationEngine(policy, five_items(), width, constrained=True)


def test_the_last_event_is_the_test_target_and_all_before_it_the_input() -> None:
    index = five_items()
    data = leave_one_out_set(SEQUENCES, index)
    assert [user.context.user_id for user in data.users] == [1, 2]  # a single event leaves no input
    first = data.users[0]
    assert first.context.events.item_id.tolist() == [12, 13, 14]
    assert first.context.time_ms == 4000
    assert index.item_ids[first.targets].tolist() == index.item_ids[first.next_tokens].tolist() == [10]
    assert first.seen.tolist() == []
    assert index.item_ids[data.recent].tolist() == [12, 13, 14, 11]


def test_the_validation_target_is_the_one_before_and_the_test_target_is_never_seen() -> None:
    index = five_items()
    data = leave_one_out_set(SEQUENCES, index, held_out="validation", profiles={1: {"age": 3}})
    assert [user.context.user_id for user in data.users] == [1]
    assert index.item_ids[data.users[0].targets].tolist() == [14]
    assert data.users[0].context.events.item_id.tolist() == [12, 13]
    assert data.users[0].context.profile == {"age": 3}


def test_masked_items_are_the_inputs_without_the_target() -> None:
    index = five_items()
    data = leave_one_out_set({1: events([12, 10, 12, 10])}, index, mask_seen=True)
    assert index.item_ids[data.users[0].seen].tolist() == [12]


def test_every_user_gets_the_place_that_the_engine_gives_the_target() -> None:
    generator, contexts, targets = engine(), [context(1, [12]), context(2, [13, 14]), context(3, [])], [10, 14, 11]
    scores = leave_one_out(generator, contexts, targets, cuts=(1, 2, 5), batch=2)
    none, index = np.empty(0, np.int64), generator.index
    for user, (candidates, target) in enumerate(zip(generator.generate(contexts), targets, strict=True)):
        ranked = index.item_ids[rank_items(candidates, index, none, 5)].tolist()
        codes = index.sids[index.rows([target])[0]]
        place, sid_place = ranked.index(target), candidates.codes.tolist().index(codes.tolist())
        assert len(ranked) == 5
        for k in (1, 2, 5):
            assert scores.recall[k][user] == (place < k)
            assert scores.ndcg[k][user] == pytest.approx((place < k) / np.log2(place + 2))
            assert scores.sid_recall[k][user] == (sid_place < k)
            assert scores.sid_ndcg[k][user] == pytest.approx((sid_place < k) / np.log2(sid_place + 2))


def test_masking_the_input_can_only_help_the_target() -> None:
    contexts, targets = [context(1, [12, 13, 14]), context(2, [10, 11, 12])], [11, 14]
    free = leave_one_out(engine(), contexts, targets, cuts=(1, 2))
    masked = leave_one_out(engine(), contexts, targets, cuts=(1, 2), mask_seen=True)
    assert (masked.recall[2] >= free.recall[2]).all()
    assert masked.recall[2].tolist() == [1.0, 1.0]  # two items are left to rank


def test_mistakes_name_item_user_and_range() -> None:
    with pytest.raises(ValueError, match="target 99 of user 7 is not in item index 1"):
        leave_one_out(engine(), [context(7, [12])], [99])
    with pytest.raises(ValueError, match="at most the engine's 4 beams, got 10"):
        leave_one_out(engine(4), [context(7, [12])], [10])


def test_it_is_imported_without_ray_kafka_or_redis() -> None:
    program = "import rollout.evaluation, sys; sys.exit(bool({'ray', 'kafka', 'redis', 'fastapi'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
