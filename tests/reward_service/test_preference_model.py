"""The P-Score's optimum, the stop-gradient, and what the model may depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.context import Context, UserEvents
from reward_service.inputs import InputBuilder, Inputs, Requests, Shape, Targets
from reward_service.labels import OBJECTIVES, TOWERS
from reward_service.preference_model import (
    HEADS,
    HIDDENS,
    PreferenceModel,
    PScoreHead,
    TargetAttention,
    p_score_loss,
    preference_loss,
)
from tests.reward_service.tiny_world import DAY0_MS, make_index, tiny_settings

SHAPE = Shape.of(tiny_settings(), make_index())


def context_of(items: list[int], user_id: int = 3, tab: int = 0) -> Context:
    """A context with these past events, one a second, the last one a minute ago."""
    size = len(items)
    times = DAY0_MS - 60_000 - 1000 * np.arange(size, dtype=np.int64)[::-1]
    play, duration, labels = np.repeat(np.array([[5_000], [20_000], [1]], np.int64), size, axis=1)
    events = UserEvents(np.array(items, np.int64), times, play, duration, labels)
    return Context(user_id, DAY0_MS, tab, {"sex": 1}, events)


def inputs_of(context: Context, rows: list[int], shape: Shape = SHAPE) -> Inputs:
    """One request's inputs for items at rows of the index."""
    targets = Targets(np.zeros(len(rows), np.int64), np.array(rows), np.full(len(rows), context.tab, np.int64))
    return InputBuilder(shape, make_index())(Requests.of_contexts([context], shape), targets)


def make_model(seed: int = 0) -> PreferenceModel:
    torch.manual_seed(seed)
    return PreferenceModel(SHAPE)


def test_p_score_optimum_is_the_weighted_mean_of_the_rates() -> None:
    """For a fixed user and item p* = sum w y / sum w: w (1, 1, 5), rates (.6, .3, .04) give 1.1 / 7."""
    torch.manual_seed(0)
    head = PScoreHead(SHAPE)
    rows = 200
    values = (torch.arange(rows)[:, None] / rows < torch.tensor([0.6, 0.3, 0.04])).float()
    ones, hiddens = torch.ones(rows, dtype=torch.int64), torch.ones(rows, len(HIDDENS) * SHAPE.width)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        p_score_loss(head(ones, ones, hiddens), values, torch.ones_like(values), torch.tensor([1.0, 1.0, 5.0])).backward()
        optimizer.step()
    assert head(ones, ones, hiddens)[0].sigmoid().item() == pytest.approx(0.157143, abs=1e-4)


def test_p_score_gradient_reaches_its_own_head_only() -> None:
    model = make_model()
    outputs = model(inputs_of(context_of([100, 101]), [0, 1, 2]))
    outputs.p.sum().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None}
    assert touched == {f"head.{name}" for name, _ in model.head.named_parameters()}


def test_wtr_and_cmtr_share_the_interaction_towers_hidden_layers() -> None:
    model = make_model()
    outputs = model(inputs_of(context_of([100, 101]), [0, 1, 2]))
    outputs.towers[:, TOWERS.index("wtr")].sum().backward()
    touched = {name.split(".")[0] for name, p in model.hidden.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"interaction"}


def test_unknown_labels_add_no_loss_and_no_gradient() -> None:
    model = make_model()
    inputs = inputs_of(context_of([100]), [0, 1])
    known = torch.ones(2, len(TOWERS))
    known[:, TOWERS.index("vtr")] = 0.0
    losses, grads = [], []
    for filler in (0.0, 1.0):
        values = torch.zeros(2, len(TOWERS))
        values[:, TOWERS.index("vtr")] = filler
        model.zero_grad()
        loss = preference_loss(model(inputs), values, known, torch.ones(len(OBJECTIVES)))
        loss.backward()
        losses.append(loss.item())
        grads.append(model.out["vtr"].get_parameter("weight").grad)
    assert losses[0] == losses[1]
    assert not any(grad is None or grad.any() for grad in grads)


def test_an_empty_history_and_an_unknown_past_item_are_fine() -> None:
    model = make_model()
    for past in ([], [999_999]):
        outputs = model(inputs_of(context_of(past), [0, 5]))
        assert outputs.p.isfinite().all()
        assert outputs.towers.shape == (2, len(TOWERS))


def test_a_targets_score_does_not_depend_on_the_other_targets() -> None:
    model = make_model().eval()
    context = context_of([100 + k % 40 for k in range(25)])
    together = model(inputs_of(context, list(range(40))))
    for row in (0, 17, 39):
        alone = model(inputs_of(context, [row]))
        torch.testing.assert_close(alone.p[0], together.p[row])
        torch.testing.assert_close(alone.towers[0], together.towers[row])


def test_history_and_request_context_matter() -> None:
    model = make_model().eval()
    base = model(inputs_of(context_of([100, 102]), [0])).towers
    assert not torch.equal(base, model(inputs_of(context_of([101, 103]), [0])).towers)
    assert not torch.equal(base, model(inputs_of(context_of([100, 102], tab=1), [0])).towers)
    assert not torch.equal(base, model(inputs_of(context_of([100, 102], user_id=4), [0])).towers)


@given(seed=st.integers(0, 2**31), targets=st.integers(1, 5), events=st.integers(0, 6), searched=st.integers(0, 4))
@settings(deadline=None)
def test_every_head_attends_to_what_was_found_with_its_own_columns(
    seed: int, targets: int, events: int, searched: int
) -> None:
    torch.manual_seed(seed)
    width = 2 * HEADS
    attention = TargetAttention(width)
    torch.nn.init.normal_(attention.related)
    item, history = torch.randn(targets, 5 * width), torch.randn(events, width)
    found = torch.randint(-1, events, (targets, searched if events else 0))
    related = torch.rand(found.shape) < 0.5
    interest = attention(item, history, found, related)
    for n in range(targets):
        here = found[n][found[n] >= 0]
        query, keys, values = attention.query(item[n]), attention.key(history[here]), attention.value(history[here])
        for head in range(HEADS):
            own = slice(2 * head, 2 * head + 2)
            logits = keys[:, own] @ query[own] / 2**0.5 + related[n][found[n] >= 0] * attention.related[head]
            shares = torch.cat([logits, torch.zeros(1)]).softmax(0)[:-1]
            torch.testing.assert_close(interest[n, own], shares @ values[:, own])
