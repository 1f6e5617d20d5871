from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.context import DAY_MS
from common.messages import Events, Impression, Item, Label, Session, User
from common.policy import build_policy
from common.session_log import LogWriter, SessionLog
from common.settings import load_settings
from rollout.engine import Candidates, GenerationEngine
from rollout.evaluation import (
    baseline_rankings,
    build_evaluation_set,
    evaluate_policy,
    next_token_losses,
    paired_bootstrap,
    rank_items,
    recall_and_ndcg,
)
from tests.factories import TINY, make_index

DAY0_MS = 19_675 * DAY_MS
SETTINGS = load_settings("", ["policy.codes=8"]).model_copy(update={"policy": TINY})


def session(user: int, day: int, items: list[int], labels: int = int(Label.CLICK), hour: int = 1) -> Session:
    time_ms = DAY0_MS + day * DAY_MS + hour * 3_600_000
    impressions = [Impression(item_id=i, time_ms=time_ms + k, play_ms=900, labels=labels) for k, i in enumerate(items)]
    return Session(session_id=f"{user}-{day}-{hour}", user_id=user, time_ms=time_ms, impressions=impressions)


@pytest.fixture
def log(tmp_path: Path) -> SessionLog:
    sessions = [
        session(1, 0, [100, 101]),
        session(2, 0, [102], labels=0),
        session(1, 1, [102, 103]),
        session(1, 2, [103, 104, 105]),
        session(2, 2, [104]),
        session(3, 2, [101]),
        session(1, 3, [106], hour=2),
    ]
    users = [User(user_id=3, history=Events(item_id=[109], time_ms=[0], play_ms=[0], duration_ms=[0], labels=[1]))]
    writer = LogWriter(tmp_path / "log", "test", int(Label.CLICK), ["age"])
    writer.write([Item(item_id=100 + k) for k in range(60)], users, sessions)
    return SessionLog.open(tmp_path / "log")


def test_the_protocol_freezes_histories_and_asks_for_unseen_clicks(log: SessionLog) -> None:
    index = make_index()
    data = build_evaluation_set(log, index, SETTINGS, first_test_day=2, test_days=2)
    assert [u.context.user_id for u in data.users] == [1, 3]  # user 2 never clicked before
    first = data.users[0]
    assert first.context.events.item_id.tolist() == [100, 101, 102, 103]
    assert index.item_ids[first.targets].tolist() == [104, 105, 106]  # 103 was seen
    assert first.context.time_ms == DAY0_MS + 2 * DAY_MS
    assert sorted(index.item_ids[data.last_day].tolist()) == [102, 103]


def test_policy_and_baselines_rank_unseen_items_only(log: SessionLog) -> None:
    index = make_index()
    data = build_evaluation_set(log, index, SETTINGS, 2, 2)
    policy = build_policy(TINY)
    engine = GenerationEngine(policy, index, width=100, constrained=True)
    rankings = {"policy": evaluate_policy(engine, data)} | baseline_rankings(data, len(index))
    for ranked in rankings.values():
        assert len(ranked) == len(data.users)
        for rows, user in zip(ranked, data.users, strict=True):
            assert not np.isin(rows, user.seen).any()
            assert len(np.unique(rows)) == len(rows) == 50
    losses = next_token_losses(policy, engine, data)
    assert losses.shape == (3,)
    assert 0 < losses.sum() < 3 * 2 * np.log(TINY.codes)


def test_recall_and_ndcg_of_a_worked_example() -> None:
    """Targets {1, 2}, ranking [1, 9, 2]: recall@2 = 1/2; NDCG@3 = (1 + 1/2) / (1 + 1/log2 3)."""
    ranked, targets = [np.array([1, 9, 2])], [np.array([1, 2])]
    assert recall_and_ndcg(ranked, targets, 2)[0].tolist() == [0.5]
    np.testing.assert_allclose(recall_and_ndcg(ranked, targets, 3)[1], [1.5 / (1 + 1 / np.log2(3))])


def test_items_of_one_bucket_are_ranked_by_popularity_share() -> None:
    index = make_index(items=300)
    keys, counts = np.unique(index.keys(index.sids), return_counts=True)
    key = int(keys[counts.argmax()])
    bucket = index.rows(index.bucket(key))
    codes = index.sids[bucket[:1]].astype(np.int64)
    candidates = Candidates(codes, np.zeros((1, 3), np.float32), index.item_ids[bucket[:1]])
    assert rank_items(candidates, index, np.empty(0, np.int64), 10).tolist() == bucket.tolist()
    assert rank_items(candidates, index, bucket[:1], 10).tolist() == bucket[1:].tolist()


def test_the_bootstrap_tells_a_gain_from_noise() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(400)
    assert paired_bootstrap(base + 0.05 + 0.1 * rng.normal(size=400), base, 500, 0) < 0.01
    assert paired_bootstrap(base + 0.1 * rng.normal(size=400), base, 500, 0) > 0.01


def test_evaluation_leaves_no_gradients() -> None:
    policy = build_policy(TINY)
    GenerationEngine(policy, make_index(), 10)
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in policy.parameters())
