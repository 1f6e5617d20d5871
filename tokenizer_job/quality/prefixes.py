"""What items of one SID prefix have in common: prefixes should mean something, coarse to fine.

Shape legend: N items, K levels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from common.messages import Item

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]


class PrefixPurity(BaseModel):
    """How far items that share a prefix share a category; lists hold one value per prefix depth 1..K.

    Purity is the share of items that carry the most common category of their prefix. It can only rise with depth and is
    1 where every item has a prefix of its own, so it is read beside ``shuffled``.
    """

    purity: list[float]
    shuffled: list[float]
    """The same with the categories dealt out anew at random: what prefixes of these sizes reach without any meaning."""
    largest_category: float
    """Share of the most common category: the purity of one prefix for all items."""
    categories: int
    without_category: int
    """Items whose category is empty; they are left out of all figures above."""


def item_categories(items: list[Item]) -> list[str]:
    """Each item's category; where it has none its finest tag; "" where neither is known."""
    return [item.category or (f"tag {item.tags[-1]}" if item.tags else "") for item in items]


def prefix_groups(sids: Codes) -> list[Ints]:
    """For each depth 1..K the number (N,) of each item's prefix, counted from 0 in ascending order of the prefixes."""
    group = np.zeros(len(sids), np.int64)
    groups = []
    for column in sids.T.astype(np.int64):
        _, group = np.unique(group * (column.max(initial=0) + 1) + column, return_inverse=True)
        groups.append(group)
    return groups


def prefix_purity(sids: Codes, categories: list[str]) -> PrefixPurity | None:
    """Purity of the prefixes of SIDs (N, K); None when no item has a category."""
    assert len(categories) == len(sids), f"{len(categories)} categories for {len(sids)} items"
    known = np.array([bool(category) for category in categories], np.bool_)
    if not known.any():
        return None
    _, labels = np.unique(np.array(categories, np.str_)[known], return_inverse=True)
    dealt = np.random.default_rng(0).permutation(labels)
    groups = prefix_groups(sids[known])
    return PrefixPurity(
        purity=[_purity(group, labels) for group in groups],
        shuffled=[_purity(group, dealt) for group in groups],
        largest_category=float(np.bincount(labels).max() / len(labels)),
        categories=int(labels.max()) + 1,
        without_category=int((~known).sum()),
    )


def _purity(group: Ints, labels: Ints) -> float:
    pairs, counts = np.unique(group * (labels.max() + 1) + labels, return_counts=True)
    most = np.zeros(group.max() + 1, np.int64)
    np.maximum.at(most, pairs // (labels.max() + 1), counts)
    return float(most.sum() / len(group))
