from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
import torch

from common.context import UserEvents
from common.features import Featurizer
from common.history import CONTEXT_EVENTS
from common.policy import build_policy
from common.policy.moe import MixtureOfExperts
from common.settings import PolicySettings, load_settings
from common.user_log import UserLog
from tests.factories import MIXED, TINY, make_events, make_index
from trainer.optimizer import build_optimizer
from trainer.pretraining import (
    Fitter,
    by_length,
    history_samples,
    pretrain,
    schedule,
    session_samples,
    target_codes,
)
from trainer.step import SftSample

SETTINGS = load_settings(
    "",
    [
        "pretrain.targets_per_context=4",
        "pretrain.batch_contexts=8",
        "pretrain.history_epochs=6",
        "pretrain.learning_rate=0.003",
    ],
).model_copy(update={"policy": TINY})


def user(seed: int, initial: int = 11, later: int = 6) -> UserLog:
    events = make_events(initial + later, seed)
    return UserLog(seed, {"age": seed}, events, initial, [(initial, initial + 2, 1), (initial + 2, initial + later, 0)])


def test_every_history_event_is_a_target_once_and_sees_only_what_came_before() -> None:
    index = make_index()
    for seed in range(6):
        samples = history_samples([user(seed)], index, SETTINGS, np.random.default_rng(seed))
        history = user(seed).events.take(slice(0, 11))
        assert sum(len(s.codes) for s in samples) == (index.rows(history.item_id) >= 0).sum()
        for sample in samples:
            cut = len(sample.context.events)
            assert np.array_equal(sample.context.events.item_id, history.item_id[:cut])
            following = target_codes(history.take(slice(cut, None)), index, "all")
            assert np.array_equal(sample.codes, following[: len(sample.codes)])


def test_shuffling_the_future_changes_no_sample() -> None:
    index, one = make_index(), user(3)
    shuffled = np.concatenate([np.arange(13), np.random.default_rng(0).permutation(np.arange(13, 17))])
    other = UserLog(3, one.profile, one.events.take(shuffled), 11, one.sessions)
    [a, _], [b, _] = session_samples([one], index, SETTINGS), session_samples([other], index, SETTINGS)
    assert a.context.digest() == b.context.digest()
    assert np.array_equal(a.codes, b.codes)


def test_sessions_come_in_time_order_with_their_context() -> None:
    samples = session_samples([user(1), user(2)], make_index(), SETTINGS)
    times = [s.context.time_ms for s in samples]
    assert times == sorted(times)
    assert {len(s.context.events) for s in samples} == {11, 13}


def test_positive_targets_only() -> None:
    events, index = make_events(20), make_index()
    assert 0 < len(target_codes(events, index, "positive")) < len(target_codes(events, index, "all"))
    assert len(target_codes(events, index, "all", limit=3)) == 3


def test_contexts_are_as_long_as_in_the_stream() -> None:
    """A positive event that the stream would no longer see must not be seen in pre-training either."""
    long = user(1, initial=CONTEXT_EVENTS + 50)
    [*_, last] = history_samples([long], make_index(), SETTINGS, np.random.default_rng(0))
    [first, _] = session_samples([long], make_index(), SETTINGS)
    assert len(last.context.events) == len(first.context.events) == CONTEXT_EVENTS
    assert first.context.events.time_ms[-1] == long.events.time_ms[CONTEXT_EVENTS + 49]


def test_batching_by_length_keeps_every_sample() -> None:
    samples = session_samples([user(k) for k in range(40)], make_index(), SETTINGS)
    batched = by_length(samples, 4, np.random.default_rng(0))
    assert sorted(map(id, batched)) == sorted(map(id, samples))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_pretraining_lowers_the_loss_and_repeats_exactly(dropout: float) -> None:
    users, tiny = [user(k) for k in range(30)], TINY.model_copy(update={"dropout": dropout})
    curves = [pretrain(build_policy(tiny), users, make_index(), SETTINGS, lambda *_: None) for _ in range(2)]
    assert curves[0] == curves[1]
    losses = curves[0]["histories"]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.3


@pytest.mark.parametrize("workers", [2, 3, 50])
@pytest.mark.parametrize("tiny", [TINY, MIXED])
def test_workers_share_a_batch_without_changing_its_gradient_or_the_balance(tiny: PolicySettings, workers: int) -> None:
    index = make_index()
    samples = session_samples([user(k) for k in range(20)], index, SETTINGS)
    samples = [samples[0], *(SftSample(s.context, s.codes[:1]) for s in samples[1:])]  # much padding in large shares
    gradients, losses, biases = [], [], []
    for count in (1, workers):
        policy = build_policy(tiny)
        pretraining = SETTINGS.pretrain.model_copy(update={"workers": count})
        settings = SETTINGS.model_copy(update={"pretrain": pretraining, "policy": tiny})
        with closing(Fitter(policy, build_optimizer(policy, 0.0, 0.0, 0.0), Featurizer(tiny, index), settings)) as fitter:
            losses.append(fitter.fit(fitter.shares(samples)))
        gradients.append([p.grad for p in policy.parameters()])
        biases.append([m.bias for m in policy.modules() if isinstance(m, MixtureOfExperts)])
    assert abs(losses[0] - losses[1]) < 1e-5
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    for mine, theirs in zip(*biases, strict=True):
        assert mine.any()
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("alpha", "same"), [(0.0, True), (1.0, False)])
def test_the_auxiliary_loss_weighs_as_much_with_any_number_of_workers(alpha: float, same: bool) -> None:
    """Copies of one sample: every share has the whole batch's auxiliary loss."""
    index = make_index()
    samples = session_samples([user(1)], index, SETTINGS)[:1] * 4
    gradients = []
    for workers, balancing in ((1, "none"), (1, "auxiliary"), (4, "auxiliary")):
        moe = MIXED.moe.model_copy(update={"balancing": balancing, "alpha": alpha})
        policy = build_policy(MIXED.model_copy(update={"moe": moe}))
        settings = SETTINGS.model_copy(update={"pretrain": SETTINGS.pretrain.model_copy(update={"workers": workers})})
        optimizer = build_optimizer(policy, 0.0, 0.0, 0.0)
        with closing(Fitter(policy, optimizer, Featurizer(MIXED, index), settings)) as fitter:
            fitter.fit(fitter.shares(samples))
        gradients.append(torch.cat([p.grad.to_dense().flatten() for p in policy.parameters() if p.grad is not None]))
    plain, alone, shared = gradients
    assert torch.allclose(plain, alone, atol=1e-6, rtol=1e-4) == same
    torch.testing.assert_close(alone, shared, atol=1e-6, rtol=1e-4)


def test_the_schedule_warms_up_and_ends_at_a_tenth() -> None:
    factors = [schedule(k, 100, 0.1) for k in range(1, 101)]
    assert factors[0] == 0.1
    assert max(factors) == 1.0
    assert abs(factors[-1] - 0.1) < 1e-6


def test_a_user_without_events_gives_no_samples() -> None:
    empty = UserLog(1, {}, UserEvents.empty(), 0, [])
    assert history_samples([empty], make_index(), SETTINGS, np.random.default_rng(0)) == []
