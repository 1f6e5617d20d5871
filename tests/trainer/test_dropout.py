"""A policy with dropout: it is drawn from the step's seed, and off wherever probabilities are compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.policy import Policy, build_policy, load_weights, to_blob
from common.settings import PolicySettings
from rollout.engine import GenerationEngine
from tests.factories import ARCHITECTURES, make_context, make_index
from tests.trainer.test_step import heeding, log_probs, make_step, rl, sft, shown
from trainer.parity import Snapshots
from trainer.step import FeedbackSample, TrainingStep

NAMES = ("encoder-decoder-mixed", "encoder-decoder-lifelong", "lazy-grouped", "session")
DROPPING = {name: ARCHITECTURES[name].model_copy(update={"dropout": 0.3}) for name in NAMES}
every_architecture = pytest.mark.parametrize("settings", DROPPING.values(), ids=DROPPING.keys())


def noisy(policy: Policy) -> bool:
    """Whether two forward passes differ."""
    inputs = make_step(policy=policy.settings).featurizer([make_context(8)])
    codes = torch.from_numpy(make_index().sids[None, :4].astype(np.int64))
    with torch.no_grad():
        one, other = (policy.log_probs(policy.encode(inputs), codes) for _ in range(2))
    return not torch.equal(one, other)


def trained(settings: PolicySettings, numbers: tuple[int, ...], elsewhere: int) -> bytes:
    """Weights after some steps, whatever else has drawn from torch's generator."""
    step = make_step(policy=settings)
    group = rl(step.policy)
    for number in numbers:
        torch.manual_seed(elsewhere)
        step.run(sft(), [group], number)
    return bytes(to_blob(step.policy))


@every_architecture
def test_a_fresh_group_has_ratio_one_after_fine_tuning_with_dropout(settings: PolicySettings) -> None:
    step = make_step(policy=settings)
    assert noisy(step.policy)
    metrics = step.run(sft(), [rl(step.policy)], 0)
    assert metrics.mean_ratio == pytest.approx(1, abs=1e-5)
    assert metrics.clipped_share == 0


def test_feedback_is_heeded_without_dropout() -> None:
    losses = []
    for dropout in (0.0, 0.3):
        step = heeding()
        policy = build_policy(step.policy.settings.model_copy(update={"dropout": dropout}))
        load_weights(policy, to_blob(step.policy))
        step = TrainingStep(policy, step.featurizer, step.settings)
        sample = shown([0.9, 0.1, 0.2, 0.3], [False] * 4)
        old = log_probs(step, sample) + np.float32(0.5)
        own = FeedbackSample(sample.context, sample.codes, old, sample.ranks, sample.negative)
        losses.append(step.run(sft(), [], 0, [own]).feedback_loss)
    assert losses[0] == pytest.approx(-np.exp(-0.5) / 4, rel=1e-5)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


@every_architecture
def test_a_step_with_dropout_is_a_function_of_state_samples_and_number(settings: PolicySettings) -> None:
    assert trained(settings, (4, 5), elsewhere=1) == trained(settings, (4, 5), elsewhere=2)
    assert trained(settings, (4, 5), elsewhere=1) != trained(settings, (4, 6), elsewhere=1)


def test_dropout_is_all_that_a_steps_number_decides_of_fine_tuning() -> None:
    for settings in (DROPPING["session"], ARCHITECTURES["session"]):
        weights = []
        for number in (1, 2):
            step = make_step(policy=settings)
            step.policy.eval()  # as a rollout group leaves it
            step.run(sft(), [], number)
            weights.append(to_blob(step.policy))
        assert (weights[0] == weights[1]) == (settings.dropout == 0)


@every_architecture
def test_two_generations_by_one_engine_are_equal_with_dropout(settings: PolicySettings) -> None:
    policy = build_policy(settings)
    assert noisy(policy)
    engine = GenerationEngine(policy, make_index(), 30)
    [one], [other] = (engine.generate([make_context(8)]) for _ in range(2))
    assert np.array_equal(one.codes, other.codes)
    assert np.array_equal(one.log_probs, other.log_probs)


@every_architecture
def test_a_fresh_group_of_a_policy_with_dropout_is_on_parity(settings: PolicySettings) -> None:
    policy = build_policy(settings, 5)
    blob, group = to_blob(policy), rl(policy)
    error = Snapshots(lambda _: blob).parity_error(1, group.context, group.featurizer, group.codes, group.log_probs_old)
    assert error < 1e-5
