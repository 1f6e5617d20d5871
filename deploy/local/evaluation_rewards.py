"""What the run's preference model expects of generated items, over separate beam widths, and how many are legal.

For each width K the policy searches anew with K trie-constrained beams, so that every user has K items; the items of
one wide beam's head would make Pass@K grow with K by construction. A baseline's lists are heads of its one ranking.
Nothing is removed from any list here: this judges what is generated, not what is shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.context import Context
from common.messages import ScoreRequest
from reward_service.labels import OBJECTIVES
from reward_service.scorer import Scorer
from rollout.engine import GenerationEngine
from rollout.evaluation import Baselines, EvaluationUser, FloatArray, IntArray, legality_at, pass_and_mean

METRICS = (*OBJECTIVES, "p_score")
BATCH = 16
"""Users of one beam search: with hundreds of beams each."""
REQUEST_ITEMS = 2048
Progress = Callable[[int, int], None]
"""Called with (users done, users in all)."""
Lists = dict[tuple[str, int], IntArray]
"""(who, K) -> item ids of one user."""


@dataclass(frozen=True, slots=True)
class GeneratedFigures:
    """Means over users: ``legality`` by K; ``rewards`` by ranker (policy or baseline), "pass" or "mean", K and metric."""

    legality: dict[str, float]
    rewards: dict[str, dict[str, Any]]


def generated_figures(
    engine: GenerationEngine,
    baselines: Baselines,
    users: Sequence[EvaluationUser],
    scorer: Scorer,
    widths: Sequence[int],
    progress: Callable[[int, int], None],
) -> GeneratedFigures:
    """Pass@K and mean@K of every metric, and legality@K over the head of one free beam, for each K in ``widths``."""
    makers = {k: GenerationEngine(engine.policy, engine.index, k, constrained=True) for k in widths}
    free = GenerationEngine(engine.policy, engine.index, max(widths))
    legal: dict[int, list[float]] = defaultdict(list)
    found: dict[tuple[str, int], list[tuple[FloatArray, FloatArray]]] = defaultdict(list)
    for start in range(0, len(users), BATCH):
        part = users[start : start + BATCH]
        for candidates in free.generate([user.context for user in part]):
            for k in widths:
                legal[k].append(legality_at(candidates.item_ids, k))
        for user, lists in zip(part, _lists(makers, baselines, part), strict=True):
            for who, scores in _scores(scorer, engine.index.version, user.context, lists).items():
                found[who].append(pass_and_mean(scores))
        progress(start + len(part), len(users))
    return GeneratedFigures({str(k): float(np.mean(legal[k])) for k in widths}, _by_name(found))


def _lists(makers: dict[int, GenerationEngine], baselines: Baselines, users: Sequence[EvaluationUser]) -> list[Lists]:
    """Every user's lists of each length, by the policy and by the baselines."""
    lists: list[Lists] = [{} for _ in users]
    for k, maker in makers.items():
        for own, candidates in zip(lists, maker.generate([user.context for user in users]), strict=True):
            own["policy", k] = candidates.item_ids
    for name, rankings in baselines.rank(users, max(makers), mask_seen=False).items():
        for own, rows in zip(lists, rankings.items, strict=True):
            own |= {(name, k): baselines.index.item_ids[rows[:k]] for k in makers}
    return lists


def _scores(scorer: Scorer, index_version: int, context: Context, lists: Lists) -> dict[tuple[str, int], FloatArray]:
    """Each list's scores (K, M); an item of several lists is scored once."""
    items = np.unique(np.concatenate(list(lists.values())))
    message = context.to_message()
    parts = []
    for start in range(0, len(items), REQUEST_ITEMS):
        part = items[start : start + REQUEST_ITEMS].tolist()
        answer = scorer.score(ScoreRequest(context=message, item_ids=part, index_version=index_version))
        columns = answer.towers | {"p_score": answer.p_score}
        parts.append(np.array([columns[metric] for metric in METRICS]).T)
    table = np.concatenate(parts)
    return {who: table[np.searchsorted(items, own)] for who, own in lists.items()}


def _by_name(found: dict[tuple[str, int], list[tuple[FloatArray, FloatArray]]]) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for (name, k), values in found.items():
        kinds = np.array(values).mean(0)  # (2, M)
        for kind, figures in zip(("pass", "mean"), kinds.tolist(), strict=True):
            out.setdefault(name, {}).setdefault(kind, {})[str(k)] = dict(zip(METRICS, figures, strict=True))
    return out
