"""The frozen protocol of a session log: next days' clicked items, full catalogue, seen items removed.

Histories are frozen at the end of training for every policy that is compared, so that only the weights differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.context import Context, UserEvents
from common.history import context_events
from common.item_index import ItemIndex
from common.messages import POSITIVE, Session
from common.session_log import SessionLog
from common.settings import Settings
from rollout.evaluation.metrics import IntArray


@dataclass(frozen=True, slots=True)
class EvaluationUser:
    """One test user, with as many past events as contexts carry anywhere; ``seen`` rows, of all past events, are not
    recommended again, ``targets`` are to be found, ``next_tokens`` were shown."""

    context: Context
    seen: IntArray
    targets: IntArray
    next_tokens: IntArray


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Test users, everybody's training histories, and recent positives, whose counts are the popularity baseline.

    Histories and recent positives are item rows, -1 for an item that the index does not know.
    """

    users: list[EvaluationUser]
    histories: list[IntArray]
    recent: IntArray


def build_evaluation_set(
    log: SessionLog, index: ItemIndex, settings: Settings, first_test_day: int, test_days: int
) -> EvaluationSet:
    """Freeze histories before ``first_test_day``; users with an earlier positive and a known target are evaluated."""
    positive = log.manifest.positive_label
    frozen_ms = log.manifest.day0_ms + first_test_day * 86_400_000
    parts: dict[int, list[UserEvents]] = {}
    profiles: dict[int, dict[str, int]] = {}
    for user in log.users():
        parts[user.user_id] = [UserEvents.from_message(user.history)]
        profiles[user.user_id] = dict(user.profile)
    last_day: list[int] = []
    for session in log.sessions(0, first_test_day - 1):
        parts.setdefault(session.user_id, []).append(UserEvents.from_impressions(session.impressions))
        if log.day_of(session.time_ms) == first_test_day - 1:
            last_day += _labelled(session, positive)
    tests: dict[int, list[Session]] = {}
    for session in log.sessions(first_test_day, first_test_day + test_days - 1):
        tests.setdefault(session.user_id, []).append(session)
    histories = {user: UserEvents.concatenate(events) for user, events in parts.items()}
    users = []
    for user_id, sessions in tests.items():
        history = histories.get(user_id, UserEvents.empty())
        if not (history.labels & positive).any():
            continue
        newest = history.last(context_events(settings.policy))
        context = Context(user_id, frozen_ms, sessions[0].impressions[0].tab, profiles.get(user_id, {}), newest)
        one = _evaluation_user(context, history.item_id, sessions, index, settings, positive)
        if one is not None:
            users.append(one)
    if settings.evaluation.max_users and len(users) > settings.evaluation.max_users:
        chosen = np.random.default_rng(settings.seed).permutation(len(users))[: settings.evaluation.max_users]
        users = [users[i] for i in sorted(chosen)]
    rows = index.rows(np.asarray(last_day, np.int64))
    return EvaluationSet(users, [index.rows(h.item_id) for h in histories.values()], rows)


def _labelled(session: Session, bits: int) -> list[int]:
    return [i.item_id for i in session.impressions if i.labels & bits]


def _evaluation_user(
    context: Context, past: IntArray, sessions: list[Session], index: ItemIndex, settings: Settings, positive: int
) -> EvaluationUser | None:
    seen = np.unique(index.rows(past if settings.evaluation.mask_seen else np.empty(0, np.int64)))
    seen = seen[seen >= 0]
    targets = np.unique(index.rows(np.array([i for s in sessions for i in _labelled(s, positive)], np.int64)))
    targets = np.setdiff1d(targets, seen)
    targets = targets[targets >= 0]
    if not len(targets):
        return None
    wanted = int(POSITIVE) if settings.trainer.targets == "positive" else 0
    shown = [i.item_id for s in sessions for i in s.impressions if not wanted or i.labels & wanted]
    rows = index.rows(np.array(shown, np.int64))
    return EvaluationUser(context, seen, targets, rows[rows >= 0][: settings.trainer.max_targets])
