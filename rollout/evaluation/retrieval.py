"""Rankings of the catalogue by a policy and by baselines, and their figures at item and at semantic-ID (SID) level.

At SID level a hit is a generated semantic ID that some target has. Where items share semantic IDs this usually flatters
a policy (it need not tell them apart), so both are always reported. Semantic IDs are numbered as the trie's leaves, -1
is an illegal one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.item_index import ItemIndex
from rollout.baselines import ItemKnn, popularity_scores, top_unseen
from rollout.engine import Candidates, GenerationEngine
from rollout.evaluation.metrics import FloatArray, IntArray, recall_and_ndcg
from rollout.evaluation.protocol import EvaluationSet, EvaluationUser

CUTS = (10, 50)
BASELINE_BATCH = 1024
Progress = Callable[[int, int], None]
"""Called with (users done, users in all)."""


@dataclass(frozen=True, slots=True)
class Rankings:
    """Best first, per user: item rows of the index, and numbers of distinct semantic IDs."""

    items: list[IntArray]
    sids: list[IntArray]


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """Recall@k and NDCG@k of each user, at item and at SID level: cut k -> (users,)."""

    recall: dict[int, FloatArray]
    ndcg: dict[int, FloatArray]
    sid_recall: dict[int, FloatArray]
    sid_ndcg: dict[int, FloatArray]


def rank_items(candidates: Candidates, index: ItemIndex, seen: IntArray, k: int) -> IntArray:
    """The k best unseen item rows of one beam: score = log pi(semantic ID) + log share of the item in its bucket.

    The share comes from recent popularity, so an item that shares its semantic ID is ranked by both.
    """
    leaves = index.leaves(candidates.codes)
    legal = leaves >= 0
    starts, ends = index.bucket_starts[leaves[legal]], index.bucket_starts[leaves[legal] + 1]
    sizes = ends - starts
    owner = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    rows = index.rows(index.bucket_items[starts[owner] + place])
    weight = index.popularity[rows].astype(np.float64) + 1e-3
    share = weight / np.bincount(owner, weight, len(sizes))[owner]
    value = candidates.log_probs.sum(-1)[legal][owner] + np.log(share)
    fresh = ~np.isin(rows, seen)
    order = np.argsort(-value[fresh], kind="stable")[:k]
    return rows[fresh][order]


def rank_sids(candidates: Candidates, index: ItemIndex, seen: IntArray, k: int) -> IntArray:
    """The k most probable semantic IDs of one beam, as leaf numbers; left out are those whose items are all seen."""
    leaves = index.leaves(candidates.codes)
    hidden, times = np.unique(index.leaves(index.sids[seen]), return_counts=True)
    spent = hidden[times == index.bucket_starts[hidden + 1] - index.bucket_starts[hidden]]
    return leaves[~np.isin(leaves, spent)][:k]


def rank_users(
    engine: GenerationEngine, data: EvaluationSet, depth: int, batch: int = 64, progress: Progress | None = None
) -> Rankings:
    """The ``depth`` best items and semantic IDs for every user; an engine of fewer beams gives fewer."""
    rankings = Rankings([], [])
    for start in range(0, len(data.users), batch):
        users = data.users[start : start + batch]
        for user, candidates in zip(users, engine.generate([u.context for u in users]), strict=True):
            rankings.items.append(rank_items(candidates, engine.index, user.seen, depth))
            rankings.sids.append(rank_sids(candidates, engine.index, user.seen, depth))
        if progress:
            progress(len(rankings.items), len(data.users))
    return rankings


def evaluate_policy(
    engine: GenerationEngine, data: EvaluationSet, batch: int = 64, progress: Progress | None = None
) -> list[IntArray]:
    """Ranked item rows of every test user, `max(CUTS)` each."""
    return rank_users(engine, data, max(CUTS), batch, progress).items


def retrieval_scores(rankings: Rankings, data: EvaluationSet, index: ItemIndex, cuts: Sequence[int]) -> RetrievalScores:
    """Figures of every user at every cut; at SID level the targets are the distinct semantic IDs of the target items."""
    rows = [user.targets for user in data.users]
    sids = [np.unique(index.leaves(index.sids[targets])) for targets in rows]
    scores = RetrievalScores({}, {}, {}, {})
    for k in cuts:
        scores.recall[k], scores.ndcg[k] = recall_and_ndcg(rankings.items, rows, k)
        scores.sid_recall[k], scores.sid_ndcg[k] = recall_and_ndcg(rankings.sids, sids, k)
    return scores


class Baselines:
    """`popularity` (the set's recent positives) and `itemknn` (cosine neighbours of all a user has watched)."""

    def __init__(self, data: EvaluationSet, index: ItemIndex) -> None:
        self.index = index
        self._popularity = popularity_scores(data.recent, len(index))
        self._neighbours = ItemKnn(data.histories, len(index))
        self._leaf_of_row = index.leaves(index.sids)
        self._largest_bucket = int(np.diff(index.bucket_starts).max())

    def rank(self, users: Sequence[EvaluationUser], k: int, mask_seen: bool = True) -> dict[str, Rankings]:
        """The k best items and semantic IDs for each user by each baseline; a semantic ID ranks as its best item does.

        With ``mask_seen`` False also the rows that the users have ``seen`` are ranked.
        """
        out: dict[str, Rankings] = {"popularity": Rankings([], []), "itemknn": Rankings([], [])}
        depth = min(k * self._largest_bucket, len(self.index))  # so many items hold k distinct semantic IDs
        for start in range(0, len(users), BASELINE_BATCH):
            part = users[start : start + BASELINE_BATCH]
            seen = [user.seen if mask_seen else np.empty(0, np.int64) for user in part]
            for name, scores in self._scores(part).items():
                for rows in top_unseen(scores, seen, depth):
                    out[name].items.append(rows[:k])
                    out[name].sids.append(first_occurrences(self._leaf_of_row[rows])[:k])
        return out

    def _scores(self, users: Sequence[EvaluationUser]) -> dict[str, npt.NDArray[np.float32]]:
        """(users, items) by baseline."""
        watched = [self.index.rows(user.context.events.item_id) for user in users]
        return {
            "popularity": np.tile(self._popularity, (len(users), 1)),
            "itemknn": self._neighbours.scores(watched),
        }


def baseline_rankings(data: EvaluationSet, index: ItemIndex, k: int = max(CUTS)) -> dict[str, Rankings]:
    """The k best unseen items and semantic IDs of every test user by each baseline."""
    return Baselines(data, index).rank(data.users, k)


def first_occurrences(values: IntArray) -> IntArray:
    """The distinct values in the order in which they come first."""
    return values[np.sort(np.unique(values, return_index=True)[1])]
