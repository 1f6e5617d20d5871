"""Five items with planned semantic IDs: 10 and 11 share one, 12, 13 and 14 have their own."""

from __future__ import annotations

import numpy as np

from common.context import Context, UserEvents
from common.item_index import ItemIndex
from rollout.engine import Candidates

CODES = 4
SIDS = [[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 2, 0], [3, 3, 3]]


def five_items(popularity: tuple[float, ...] = (1.0, 3.0, 1.0, 1.0, 1.0)) -> ItemIndex:
    """Items 10..14; item 11 is three times as popular as item 10 beside it."""
    zeros = np.zeros(5)
    return ItemIndex.build(
        1,
        "t",
        CODES,
        item_ids=np.arange(10, 15),
        sids=np.array(SIDS),
        author=zeros,
        tags=zeros[:, None] - 1,
        music=zeros,
        duration_ms=zeros,
        publish_ms=zeros,
        popularity=np.array(popularity),
        vectors=np.zeros((5, 2)),
    )


def beam(*found: tuple[list[int], float]) -> Candidates:
    """Candidates of (codes, probability), best first; all of a semantic ID's log-probability is in its first level."""
    codes = np.array([codes for codes, _ in found], np.int64)
    log_probs = np.zeros(codes.shape, np.float32)
    log_probs[:, 0] = np.log([probability for _, probability in found])
    return Candidates(codes, log_probs, five_items().head_items(codes))


def events(items: list[int], first_ms: int = 1000) -> UserEvents:
    """Events of these items, one a second."""
    ids = np.array(items, np.int64)
    return UserEvents(ids, first_ms + 1000 * np.arange(len(ids)), ids * 0, ids * 0, ids * 0 + 1)


def context(user: int, items: list[int]) -> Context:
    """A user who watched these items."""
    return Context(user, 1_000_000, events=events(items))
