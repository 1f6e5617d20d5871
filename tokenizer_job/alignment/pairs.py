"""Item pairs that behaviour calls alike: user-to-item and item-to-item (OneRec technical report, section "Tokenizer").

Everything is built from the events given, which must lie in the training window. Similarities are those of `swing`.
Shape legend: N items, E events, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tokenizer_job.alignment.swing import swing
from tokenizer_job.events import TrainingEvents

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Ordered item pairs (P, 2); within a source no unordered pair occurs twice."""

    user_to_item: Ints
    item_to_item: Ints

    def __len__(self) -> int:
        return len(self.user_to_item) + len(self.item_to_item)

    def among(self, allowed: Bools) -> Pairs:
        """Only the pairs whose two items are both allowed; ``allowed`` (N,)."""
        return Pairs(*(rows[allowed[rows].all(1)] for rows in (self.user_to_item, self.item_to_item)))

    def draw(self, rng: np.random.Generator, size: int) -> Ints:
        """(size, 2) random pairs, half from each source (all from the one that has any, if the other is empty)."""
        first = size // 2 if len(self.item_to_item) else size
        first = first if len(self.user_to_item) else 0
        shares = ((self.user_to_item, first), (self.item_to_item, size - first))
        return np.concatenate([rows[rng.integers(0, len(rows), count)] for rows, count in shares if count])

    def share(self, items: int) -> Floats:
        """How much of a batch is each item, (N,); both sides of the pairs count."""
        sources = [rows for rows in (self.user_to_item, self.item_to_item) if len(rows)]
        counts = [np.bincount(rows.ravel(), minlength=items) / rows.size for rows in sources]
        return np.asarray(sum(counts) / len(counts), np.float32)

    def known(self, items: int) -> sparse.csr_array:
        """Symmetric boolean (N, N): True for the two items of every pair."""
        left, right = np.concatenate([self.user_to_item, self.item_to_item]).T
        there = np.ones(2 * len(left), np.bool_)
        where = (np.concatenate([left, right]), np.concatenate([right, left]))
        return sparse.csr_array((there, where), shape=(items, items))


def item_pairs(events: TrainingEvents, items: int, seed: int = 0) -> Pairs:
    """Both kinds of pairs from the positive events of a training window over a catalogue of N items.

    ``seed`` draws the users that `swing` keeps of an item that very many clicked.
    """
    user, row = events.user[events.positive], events.row[events.positive]
    similarity = swing(user, row, items, seed=seed)
    return Pairs(_first_of_each(user_to_item(user, row, similarity), items), _first_of_each(item_to_item(similarity), items))


def item_to_item(similarity: sparse.csr_array, k: int = 10, percentile: float = 60.0) -> Ints:
    """(P, 2): every item with its ``k`` most similar ones, where the score reaches the percentile of all scores above 0.

    Equal scores go to the lower row first.
    """
    if not similarity.nnz:
        return np.empty((0, 2), np.int64)
    neighbours, scores = nearest(similarity, k)
    enough = scores >= np.percentile(similarity.data, percentile)
    left = np.broadcast_to(np.arange(len(neighbours))[:, None], neighbours.shape)
    return np.stack([left[enough], neighbours[enough]], 1)


def nearest(similarity: sparse.csr_array, k: int) -> tuple[Ints, Floats]:
    """The ``k`` most similar items of each (N, k), best first, and their scores; absent ones are -1 with score -inf."""
    entries = similarity.tocoo()
    order = np.lexsort((entries.col, -entries.data, entries.row))
    row = entries.row[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    best = place < k
    neighbours = np.full((similarity.shape[0], k), -1, np.int64)
    scores = np.full(neighbours.shape, -np.inf, np.float32)
    neighbours[row[best], place[best]] = entries.col[order][best]
    scores[row[best], place[best]] = entries.data[order][best]
    return neighbours, scores


def user_to_item(user: Ints, row: Ints, similarity: sparse.csr_array, last: int = 50) -> Ints:
    """(P, 2): each event's item with the most similar one among the user's ``last`` events before it.

    Events (E,) are each user's together and oldest first. Of equally similar items the latest is taken; an item without
    any similar one (score above 0) before it gives no pair.
    """
    scores = _Scores(similarity)
    best = np.zeros(len(row), np.float32)
    partner = np.full(len(row), -1, np.int64)
    at = np.arange(len(row))
    position = at - np.searchsorted(user, user)
    for distance in range(1, min(last, int(position.max(initial=0))) + 1):
        at = at[position[at] >= distance]
        found = scores(row[at], row[at - distance])
        better = found > best[at]
        best[at[better]] = found[better]
        partner[at[better]] = row[at[better] - distance]
    paired = partner >= 0
    return np.stack([row[paired], partner[paired]], 1)


class _Scores:
    """Looks up many entries of a sparse matrix; absent ones are 0."""

    def __init__(self, matrix: sparse.csr_array) -> None:
        entries = matrix.tocoo()
        self.items = matrix.shape[1]
        key = entries.row.astype(np.int64) * self.items + entries.col
        order = np.argsort(key, kind="stable")
        self.key = np.append(key[order], np.iinfo(np.int64).max)
        self.score = np.append(entries.data[order], np.float32(0)).astype(np.float32)

    def __call__(self, left: Ints, right: Ints) -> Floats:
        wanted = left * self.items + right
        at = np.searchsorted(self.key, wanted)
        return np.where(self.key[at] == wanted, self.score[at], np.float32(0))


def _first_of_each(pairs: Ints, items: int) -> Ints:
    """The first occurrence of every unordered pair, in the order given."""
    key = pairs.min(1, initial=items) * items + pairs.max(1, initial=0)
    return pairs[np.sort(np.unique(key, return_index=True)[1])]
