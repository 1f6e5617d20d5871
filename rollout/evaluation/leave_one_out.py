"""The leave-one-out protocol of sequence data sets such as Amazon Beauty.

Of each user's events in order the last one is the test target and the one before it the validation target; the input
is all that comes before the target. Every item of the catalogue is ranked. Published figures on one data set differ in
whether the input's own items are ranked too or left out, so that is an argument here: by default they are ranked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from common.context import Context, UserEvents
from common.item_index import ItemIndex
from rollout.engine import GenerationEngine
from rollout.evaluation.protocol import EvaluationSet, EvaluationUser
from rollout.evaluation.retrieval import Progress, RetrievalScores, rank_users, retrieval_scores

PLACE = {"test": -1, "validation": -2}


def leave_one_out_set(
    sequences: Mapping[int, UserEvents],
    index: ItemIndex,
    held_out: Literal["test", "validation"] = "test",
    mask_seen: bool = False,
    profiles: Mapping[int, dict[str, int]] | None = None,
) -> EvaluationSet:
    """An evaluation set of user id -> all of the user's events, oldest first; users without input are left out.

    Contexts are those of the target's time. For the baselines, histories and recent positives are all users' inputs.
    With ``mask_seen`` the input's items are not ranked, except for a target that is among them.

    Raises:
        ValueError: a target is not in the index (names item and user).
    """
    place = PLACE[held_out]
    long_enough = {user: events for user, events in sequences.items() if len(events) > -place}
    contexts = [
        Context(user, int(events.time_ms[place]), 0, (profiles or {}).get(user, {}), events.take(slice(0, place)))
        for user, events in long_enough.items()
    ]
    targets = [int(events.item_id[place]) for events in long_enough.values()]
    return _evaluation_set(contexts, targets, index, mask_seen)


def leave_one_out(
    engine: GenerationEngine,
    contexts: Sequence[Context],
    target_ids: Sequence[int],
    cuts: Sequence[int] = (5, 10),
    mask_seen: bool = False,
    batch: int = 64,
    progress: Progress | None = None,
) -> RetrievalScores:
    """Recall@k and NDCG@k of every user, at item and at SID level, for one target item each, in the order given.

    Args:
        engine: generates at least ``max(cuts)`` candidates; constrained, so that all of them are items.
        contexts: what comes before each target.
        target_ids: item ids.
        cuts: the k.
        mask_seen: do not rank the contexts' items, except for a target that is among them.
        batch: users of one beam search.
        progress: called after each.

    Raises:
        ValueError: a target is not in the engine's index (named), or its beams are fewer than ``max(cuts)``.
    """
    if engine.width < max(cuts):
        raise ValueError(f"cuts must be at most the engine's {engine.width} beams, got {max(cuts)}")
    data = _evaluation_set(contexts, target_ids, engine.index, mask_seen)
    return retrieval_scores(rank_users(engine, data, max(cuts), batch, progress), data, engine.index, cuts)


def _evaluation_set(
    contexts: Sequence[Context], target_ids: Sequence[int], index: ItemIndex, mask_seen: bool
) -> EvaluationSet:
    rows = index.rows(np.asarray(target_ids, np.int64))
    if (rows < 0).any():
        unknown = int(np.argmin(rows))
        raise ValueError(
            f"target {target_ids[unknown]} of user {contexts[unknown].user_id} is not in item index {index.version}"
        )
    histories = [index.rows(context.events.item_id) for context in contexts]
    users = []
    for context, row, history in zip(contexts, rows, histories, strict=True):
        target = row[None]
        seen = np.setdiff1d(history[history >= 0], target) if mask_seen else np.empty(0, np.int64)
        users.append(EvaluationUser(context, seen, target, target))
    return EvaluationSet(users, histories, np.concatenate([*histories, np.empty(0, np.int64)]))
