from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.context import DAY_MS
from common.history import CONTEXT_EVENTS
from common.messages import Events, Impression, Item, Label, Session, User
from common.policy import build_policy
from common.session_log import LogWriter, SessionLog
from common.settings import load_settings
from rollout.engine import GenerationEngine
from rollout.evaluation import (
    baseline_rankings,
    build_evaluation_set,
    evaluate_policy,
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
    assert sorted(index.item_ids[data.recent].tolist()) == [102, 103]


def test_contexts_carry_as_many_events_as_elsewhere_and_what_was_seen_before_stays_seen(tmp_path: Path) -> None:
    early = [session(1, 0, [100 + k], hour=k) for k in range(3)]
    late = [session(1, 1, [110 + k % 2] * 50, hour=k) for k in range(20)]
    asked = session(1, 2, [100, 120])
    writer = LogWriter(tmp_path / "log", "test", int(Label.CLICK), ["age"])
    writer.write([Item(item_id=100 + k) for k in range(60)], [], [*early, *late, asked])
    index = make_index()
    (user,) = build_evaluation_set(SessionLog.open(tmp_path / "log"), index, SETTINGS, first_test_day=2, test_days=1).users
    assert len(user.context.events) == CONTEXT_EVENTS == 1000
    assert user.context.events.item_id[0] == 110
    assert index.item_ids[user.targets].tolist() == [120]  # 100 was seen, longer ago


def test_policy_and_baselines_rank_unseen_items_only(log: SessionLog) -> None:
    index = make_index()
    data = build_evaluation_set(log, index, SETTINGS, 2, 2)
    policy = build_policy(TINY)
    engine = GenerationEngine(policy, index, width=100, constrained=True)
    baselines = {name: rankings.items for name, rankings in baseline_rankings(data, index).items()}
    for ranked in ({"policy": evaluate_policy(engine, data)} | baselines).values():
        assert len(ranked) == len(data.users)
        for rows, user in zip(ranked, data.users, strict=True):
            assert not np.isin(rows, user.seen).any()
            assert len(np.unique(rows)) == len(rows) == 50


def test_evaluation_leaves_no_gradients() -> None:
    policy = build_policy(TINY)
    GenerationEngine(policy, make_index(), 10)
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in policy.parameters())
