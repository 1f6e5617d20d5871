from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.context import Context, UserEvents
from common.features import BUCKETS, EventFeatures, Featurizer, PolicyInputs, hashed, log_bucket
from common.messages import POSITIVE
from tests.factories import NOW_MS, TINY, make_context, make_events, make_index

LIFELONG = TINY.model_copy(update={"lifelong_length": 6})


def equal(a: PolicyInputs, b: PolicyInputs) -> bool:
    def same(x: EventFeatures | None, y: EventFeatures | None) -> bool:
        if x is None or y is None:
            return x is y
        return all(torch.equal(getattr(x, f.name), getattr(y, f.name)) for f in fields(x))

    return torch.equal(a.static, b.static) and all(
        same(getattr(a, n), getattr(b, n)) for n in ("short", "positive", "lifelong")
    )


@given(st.integers(0, 2**53), st.integers(0, 2**53))
def test_buckets_are_monotone_and_bounded(a: int, b: int) -> None:
    low, high = log_bucket(np.array([min(a, b), max(a, b)]))
    assert 0 <= low <= high < BUCKETS
    assert (low == 0) == (min(a, b) == 0)


def test_hashing_keeps_row_zero_for_padding_and_small_ids_apart() -> None:
    rows = hashed(np.arange(-1, 9), 10)
    assert rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert hashed(np.array([9]), 10).tolist() == [1]


def test_pathways_hold_the_newest_events_first() -> None:
    index, context = make_index(), make_context(30)
    inputs = Featurizer(TINY, index)([context])
    newest = context.events.last(TINY.short_length).item_id[::-1]
    assert inputs.short.vid[0].tolist() == hashed(newest, TINY.item_buckets).tolist()
    positives = context.events.take(np.flatnonzero(context.events.labels & int(POSITIVE)))
    newest = positives.last(TINY.positive_length).item_id[::-1]
    assert inputs.positive.vid[0].tolist() == hashed(newest, TINY.item_buckets).tolist()


def test_unknown_items_keep_their_id_but_have_no_semantic_id() -> None:
    events = replace(make_events(1), item_id=np.array([5]))
    inputs = Featurizer(TINY, make_index())([Context(1, NOW_MS, 0, {}, events)])
    assert inputs.short.vid[0, 0] > 0
    assert inputs.short.sids[0, 0].tolist() == [0, 0, 0]
    assert inputs.short.author[0, 0] == 0
    assert inputs.short.tag_weight[0, 0].sum() == 0


def test_unknown_times_are_their_own_bucket() -> None:
    events = replace(make_events(1), time_ms=np.array([0]))
    short = Featurizer(TINY, make_index())([Context(1, NOW_MS, 0, {}, events)]).short
    assert (short.age.item(), short.hour.item(), short.weekday.item()) == (0, 0, 0)


def test_missing_profile_fields_are_padding() -> None:
    static = Featurizer(TINY, make_index())([Context(1, NOW_MS), Context(1, NOW_MS, profile={"age": 3, "other": 1})]).static
    assert static[0, 1] == 0
    assert static[1, 1] > 0


def test_a_batch_of_empty_histories_has_nothing_visible() -> None:
    inputs = Featurizer(LIFELONG, make_index())([Context(1, NOW_MS)])
    assert inputs.lifelong is not None
    for pathway in (inputs.short, inputs.positive, inputs.lifelong):
        assert pathway.mask.shape == (1, 1)
        assert not pathway.mask.any()


def test_lifelong_sees_only_earlier_days_and_counts_every_event_once() -> None:
    index = make_index()
    yesterday = make_events(40)
    yesterday = replace(yesterday, time_ms=yesterday.time_ms - 86_400_000)
    known = int((index.rows(yesterday.item_id) >= 0).sum())
    settings = TINY.model_copy(update={"lifelong_length": 64})
    alone = Featurizer(settings, index)([Context(1, NOW_MS, events=yesterday)]).lifelong
    both = UserEvents.concatenate([yesterday, make_events(5, seed=3)])
    with_today = Featurizer(settings, index)([Context(1, NOW_MS, events=both)]).lifelong
    assert alone is not None
    assert with_today is not None
    assert alone.leaf_size.sum() == known
    assert torch.equal(alone.vid, with_today.vid)


def test_a_leafs_means_are_of_what_is_known() -> None:
    """KuaiRand's initial histories have neither times nor plays, and share leaves with the log's events."""
    index, last = make_index(), make_events(1)
    one = replace(last, item_id=np.array([101]), time_ms=last.time_ms - 86_400_000)
    unknown = replace(one, **{name: np.array([0]) for name in ("time_ms", "play_ms", "duration_ms")})

    def leaf(*events: UserEvents) -> EventFeatures:
        context = Context(1, NOW_MS, events=UserEvents.concatenate(list(events)))
        found = Featurizer(LIFELONG, index)([context]).lifelong
        assert found is not None
        assert found.mask.tolist() == [[True]]
        return found

    names = ("age", "hour", "weekday", "play", "duration")
    alone, among = leaf(one), leaf(unknown, unknown, one)
    assert among.leaf_size.item() == 3
    assert [getattr(among, name).item() for name in names] == [getattr(alone, name).item() for name in names]
    assert all(getattr(alone, name).item() > 0 for name in names)
    assert not any(getattr(leaf(unknown, unknown), name).item() for name in names)


def test_features_are_a_function_of_the_context_alone() -> None:
    featurize = Featurizer(LIFELONG, make_index())
    assert equal(featurize([make_context(30)]), featurize([make_context(30)]))
    assert not equal(featurize([make_context(30)]), featurize([make_context(30, seed=9)]))


def test_a_users_features_do_not_depend_on_who_else_is_in_the_batch() -> None:
    index = make_index()
    contexts = [Context(1, NOW_MS + 2 * 86_400_000, events=make_events(size, seed=size)) for size in (40, 1, 0, 75)]
    together = Featurizer(LIFELONG, index)(contexts).lifelong
    assert together is not None
    for row, context in enumerate(contexts):
        alone = Featurizer(LIFELONG, index)([context]).lifelong
        assert alone is not None
        size = int(alone.mask.sum())
        assert together.mask[row].sum() == size
        for name in ("vid", "tags", "tag_weight", "play", "leaf_size", "sids"):
            assert torch.equal(getattr(together, name)[row, :size], getattr(alone, name)[0, :size])


def test_contexts_survive_the_wire_with_their_digest() -> None:
    context = make_context(20)
    back = Context.from_message(context.to_message())
    assert back.digest() == context.digest()
    changed = replace(context, events=replace(context.events, labels=context.events.labels ^ 1))
    assert changed.digest() != context.digest()
    assert np.array_equal(UserEvents.from_bytes(context.events.to_bytes()).play_ms, context.events.play_ms)
