"""Histories that no service should send, and some do: every architecture answers with finite, repeatable log-probs."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from common.context import DAY_MS, Context, UserEvents
from common.features import EventFeatures, Featurizer
from common.policy import build_policy
from common.settings import PolicySettings
from tests.factories import ARCHITECTURES, NOW_MS, TINY, make_events, make_index, tiny

every_architecture = pytest.mark.parametrize("settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
LONGEST = 100_000
YESTERDAY = make_events(300)
YESTERDAY = replace(YESTERDAY, time_ms=YESTERDAY.time_ms - DAY_MS)


def with_columns(events: UserEvents = YESTERDAY, **columns: int) -> UserEvents:
    """Events whose named columns hold one value throughout."""
    return replace(events, **{name: np.full(len(events), value, np.int64) for name, value in columns.items()})


HISTORIES = {
    "none": UserEvents.empty(),
    "one": YESTERDAY.last(1),
    "identical": with_columns(item_id=101, time_ms=NOW_MS - DAY_MS, play_ms=5, duration_ms=9, labels=1),
    "unknown items": with_columns(item_id=5),
    "unknown everything": with_columns(item_id=5, time_ms=0, play_ms=0, duration_ms=0, labels=0),
    "future": with_columns(time_ms=NOW_MS + 3 * DAY_MS),
    "duplicates": UserEvents.concatenate([YESTERDAY, YESTERDAY]),
    "backwards": YESTERDAY.take(np.arange(300)[::-1]),
    "largest": with_columns(item_id=2**63 - 1, time_ms=2**53 - 1, play_ms=7 * DAY_MS, duration_ms=7 * DAY_MS, labels=511),
}


def answer(settings: PolicySettings, context: Context) -> tuple[Tensor, list[Tensor]]:
    """Log-probs of some targets, and every weight's gradient, from parts built anew."""
    policy = build_policy(settings)
    codes = torch.arange(6).view(1, 2, 3)
    found = policy.session_log_probs(policy.encode(Featurizer(settings, make_index())([context])), codes)
    found.sum().backward()
    return found.detach(), [weight.grad.to_dense() for weight in policy.parameters() if weight.grad is not None]


@every_architecture
@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize("profile", [{}, {"age": 2**63 - 1, "other": 0}], ids=["no profile", "odd profile"])
def test_any_history_has_finite_and_repeatable_log_probs(
    settings: PolicySettings, name: str, profile: dict[str, int]
) -> None:
    context = Context(2**63 - 1, NOW_MS, 0, profile, HISTORIES[name])
    (one, gradients), (two, _) = answer(settings, context), answer(settings, context)
    assert torch.equal(one, two)
    assert (one < 0).all()
    assert all(tensor.isfinite().all() for tensor in (one, *gradients))


@every_architecture
def test_a_full_history_is_read_as_its_newest_events(settings: PolicySettings) -> None:
    """Beyond its lengths a pathway sees nothing; the compressed one, all but today's. 100,000 events take about a second
    of one core (some two where all items differ)."""
    events = make_events(LONGEST)
    context = Context(1, NOW_MS, 0, {}, events)
    assert answer(settings, context)[0].isfinite().all()
    if not settings.lifelong_length:
        far = replace(events, item_id=np.where(np.arange(LONGEST) < LONGEST - 100, 100, events.item_id))
        assert torch.equal(answer(settings, context)[0], answer(settings, replace(context, events=far))[0])


def pathways(events: UserEvents) -> tuple[EventFeatures, EventFeatures]:
    inputs = Featurizer(tiny(lifelong_length=6), make_index())([Context(1, NOW_MS, 0, {}, events)])
    assert inputs.lifelong is not None
    return inputs.short, inputs.lifelong


def test_the_future_is_just_now_and_no_part_of_the_past_days() -> None:
    short, lifelong = pathways(HISTORIES["future"])
    assert set(short.age.flatten().tolist()) == {1}  # the youngest
    assert pathways(with_columns(time_ms=NOW_MS))[0].age[0, 0] == 1
    assert not lifelong.mask.any()


def test_unknown_items_are_no_part_of_the_compressed_past() -> None:
    short, lifelong = pathways(HISTORIES["unknown items"])
    assert short.mask.all()
    assert not short.sids.any()
    assert not lifelong.mask.any()


def test_duplicates_count_as_often_as_they_are_there() -> None:
    twice = UserEvents.concatenate([YESTERDAY.last(1), YESTERDAY.last(1)])
    short, lifelong = pathways(replace(twice, item_id=np.array([101, 101])))
    assert short.mask.sum() == 2
    assert lifelong.leaf_size.sum() == 2


def test_identical_events_are_cut_into_leaves_of_one_item() -> None:
    _, lifelong = pathways(HISTORIES["identical"])
    assert lifelong.mask.all()
    assert all((getattr(lifelong, f.name) == getattr(lifelong, f.name)[:, :1]).all() for f in fields(lifelong))


def test_padding_rows_get_no_gradient() -> None:
    policy = build_policy(TINY)
    _, gradients = answer(TINY, Context(1, NOW_MS, 0, {}, HISTORIES["unknown everything"]))
    named = dict(zip([name for name, _ in policy.named_parameters()], gradients, strict=True))
    for name in ("event.vid.weight", "event.author.weight", "event.tag.weight", "static.weight", "event.age.weight"):
        assert not named[name][0].any()
