"""Offline evaluation by a frozen protocol: next days' clicked items, item level, full catalogue, seen items removed.

Histories are frozen at the end of training for every policy that is compared, so that only the weights differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from common.context import Context, UserEvents
from common.item_index import ItemIndex
from common.messages import POSITIVE, Session
from common.policy import Policy
from common.session_log import SessionLog
from common.settings import Settings
from rollout.baselines import ItemKnn, popularity_scores, top_unseen
from rollout.engine import Candidates, GenerationEngine

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
CUTS = (10, 50)


@dataclass(frozen=True, slots=True)
class EvaluationUser:
    """One test user; ``seen`` rows are not recommended again, ``targets`` are to be found, ``next_tokens`` were shown."""

    context: Context
    seen: IntArray
    targets: IntArray
    next_tokens: IntArray


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Test users, everybody's training histories (item rows) and the last training day's positives (item rows)."""

    users: list[EvaluationUser]
    histories: list[IntArray]
    last_day: IntArray


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
        context = Context(user_id, frozen_ms, sessions[0].impressions[0].tab, profiles.get(user_id, {}), history)
        one = _evaluation_user(context, sessions, index, settings, positive)
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
    context: Context, sessions: list[Session], index: ItemIndex, settings: Settings, positive: int
) -> EvaluationUser | None:
    seen = np.unique(index.rows(context.events.item_id if settings.evaluation.mask_seen else np.empty(0, np.int64)))
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


def rank_items(candidates: Candidates, index: ItemIndex, seen: IntArray, k: int) -> IntArray:
    """The k best unseen item rows of one beam: score = log pi(semantic ID) + log share of the item in its bucket.

    The share comes from recent popularity, so an item that shares its semantic ID is ranked by both.
    """
    total = candidates.log_probs.sum(-1)
    rows: list[IntArray] = []
    scores: list[FloatArray] = []
    for key, score in zip(index.keys(candidates.codes).tolist(), total.tolist(), strict=True):
        bucket = index.rows(index.bucket(key))
        weight = index.popularity[bucket].astype(np.float64) + 1e-3
        rows.append(bucket)
        scores.append(score + np.log(weight / weight.sum()))
    flat, value = np.concatenate(rows), np.concatenate(scores)
    fresh = ~np.isin(flat, seen)
    order = np.argsort(-value[fresh], kind="stable")[:k]
    return flat[fresh][order]


def recall_and_ndcg(ranked: Sequence[IntArray], targets: Sequence[IntArray], k: int) -> tuple[FloatArray, FloatArray]:
    """Per-user Recall@k (hits / targets) and NDCG@k (binary gains, ideal = all targets first)."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    recall, ndcg = np.zeros(len(ranked)), np.zeros(len(ranked))
    for user, (rows, wanted) in enumerate(zip(ranked, targets, strict=True)):
        hits = np.isin(rows[:k], wanted)
        recall[user] = hits.sum() / len(wanted)
        ndcg[user] = (discounts[: len(hits)] * hits).sum() / discounts[: min(k, len(wanted))].sum()
    return recall, ndcg


def evaluate_policy(
    engine: GenerationEngine, data: EvaluationSet, batch: int = 64, progress: Callable[[int, int], None] | None = None
) -> list[IntArray]:
    """Ranked item rows of every test user, `max(CUTS)` each."""
    ranked: list[IntArray] = []
    for start in range(0, len(data.users), batch):
        users = data.users[start : start + batch]
        for user, candidates in zip(users, engine.generate([u.context for u in users]), strict=True):
            ranked.append(rank_items(candidates, engine.index, user.seen, max(CUTS)))
        if progress:
            progress(len(ranked), len(data.users))
    return ranked


@torch.no_grad()
def next_token_losses(policy: Policy, engine: GenerationEngine, data: EvaluationSet, batch: int = 128) -> FloatArray:
    """Per-level NTP loss (K,), the mean over all test impressions, contexts frozen; a session-wise policy reads a user's
    impressions as sessions of consecutive items."""
    device = next(policy.parameters()).device
    total, count = np.zeros(policy.settings.levels), 0
    for start in range(0, len(data.users), batch):
        users = [u for u in data.users[start : start + batch] if len(u.next_tokens)]
        if not users:
            continue
        memory = policy.encode(engine.featurizer([u.context for u in users]).to(device))
        longest = max(len(u.next_tokens) for u in users)
        rows = np.zeros((len(users), longest), np.int64)
        mask = np.zeros((len(users), longest), np.bool_)
        for r, user in enumerate(users):
            rows[r, : len(user.next_tokens)] = user.next_tokens
            mask[r, : len(user.next_tokens)] = True
        codes = torch.from_numpy(engine.index.sids[rows].astype(np.int64)).to(device)
        losses = -policy.session_log_probs(memory, codes).cpu().numpy()
        total += losses[mask].sum(0)
        count += int(mask.sum())
    return total / max(count, 1)


def baseline_rankings(data: EvaluationSet, items: int) -> dict[str, list[IntArray]]:
    """Ranked item rows per test user of `popularity` (last training day) and `itemknn` (all watched items)."""
    seen = [u.seen for u in data.users]
    popularity = popularity_scores(data.last_day, items)
    neighbours = ItemKnn(data.histories, items)
    out: dict[str, list[IntArray]] = {"popularity": [], "itemknn": []}
    for start in range(0, len(seen), 1024):
        part = seen[start : start + 1024]
        out["popularity"] += list(top_unseen(np.tile(popularity, (len(part), 1)), part, max(CUTS)))
        out["itemknn"] += list(top_unseen(neighbours.scores(part), part, max(CUTS)))
    return out


def paired_bootstrap(ours: FloatArray, theirs: FloatArray, samples: int, seed: int) -> float:
    """One-sided p-value that mean(ours) <= mean(theirs), by resampling users with replacement."""
    rng = np.random.default_rng(seed)
    difference = ours - theirs
    draws = rng.integers(0, len(difference), (samples, len(difference)))
    worse = int((difference[draws].mean(1) <= 0).sum())
    return (1 + worse) / (1 + samples)
