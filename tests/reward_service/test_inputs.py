"""The hard search over a history."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import settings as check
from hypothesis import strategies as st

from common.context import Context, UserEvents
from common.history import context_events
from common.item_index import ItemIndex
from reward_service.inputs import InputBuilder, Requests, Shape, Targets
from tests.reward_service.tiny_world import ITEMS, make_index, tiny_settings

HISTORY = 6
INDEX = make_index()
BUILDER = InputBuilder(Shape.of(tiny_settings(history=HISTORY), INDEX), INDEX)


def is_related(index: ItemIndex, target: int, event: int) -> bool:
    if event < 0:
        return False
    shared = set(index.tags[target].tolist()) & set(index.tags[event].tolist()) - {-1}
    return bool(shared) or bool(index.sids[target, 0] == index.sids[event, 0])


@given(st.lists(st.integers(-1, ITEMS - 1), max_size=40), st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=5))
@check(deadline=None)
def test_search_takes_the_newest_related_events_then_the_newest_others(events: list[int], targets: list[int]) -> None:
    hits, related = BUILDER.search(np.array(targets, np.int64), np.array(events, np.int64))
    for target, found, flags in zip(targets, hits.tolist(), related.tolist(), strict=True):
        newest = range(len(events) - 1, -1, -1)
        wanted = sorted(newest, key=lambda at: not is_related(INDEX, target, events[at]))[:HISTORY]
        assert sorted(found) == sorted(wanted)
        assert all(flag == is_related(INDEX, target, events[at]) for at, flag in zip(found, flags, strict=True))


def test_training_searches_no_more_of_a_history_than_a_request_for_scores_carries() -> None:
    """The log's whole history against the context that the trainer sends with a rollout request."""
    settings = tiny_settings(history=HISTORY)
    carried = context_events(settings.policy)
    items = np.array([101] * (carried - 1) + [100] + [102] * carried)  # only those that no context carries are related
    zeros = np.zeros(len(items), np.int64)
    events = UserEvents(items, zeros + 5, zeros, zeros, zeros)
    targets = Targets(np.zeros(1, np.int64), INDEX.rows([100]), np.zeros(1, np.int64))
    whole, served = (
        BUILDER(Requests.of_contexts([Context(1, 9, events=some)], BUILDER.shape), targets)
        for some in (events, events.last(carried))
    )
    assert whole.related.tolist() == served.related.tolist()
    assert whole.event_item.vid.tolist() == served.event_item.vid.tolist()
