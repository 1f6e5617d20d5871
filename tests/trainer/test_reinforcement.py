"""What a step makes of rollout groups, against the formulas on probabilities: groups whose pi_old is far from pi."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.features import Featurizer
from common.policy import Policy, build_policy
from tests.trainer.test_step import make_step, rl
from tests.trainer.tiny_run import tiny_index, tiny_settings
from trainer.step import RlSample, StepMetrics, TrainingStep

EPS, DELTA, GROUPS_PER_STEP = 0.3, 0.2, 5
PREFERENCE, FORMAT = 0.7, 0.4
OBJECTIVES = ("ecpo", "grpo", "gbpo")
STEP = 3


def reinforcing(**changes: Any) -> TrainingStep:
    """A step with no default among the settings of its objective, whose gradients stay as they are."""
    step = make_step()
    constants = {"eps": EPS, "delta": DELTA, "groups_per_step": GROUPS_PER_STEP}
    weights = {"lambda_preference": PREFERENCE, "lambda_format": FORMAT}
    reinforcement = step.settings.rl.model_copy(update=constants | weights | changes)
    unclipped = step.settings.trainer.model_copy(update={"clip_norm": 1e9})
    settings = step.settings.model_copy(update={"rl": reinforcement, "trainer": unclipped})
    return TrainingStep(step.policy, step.featurizer, settings)


def drifted(policy: Policy, seed: int = 0) -> RlSample:
    """A group in which pi / pi_old lies on both sides of every bound, by level and of the whole, whatever the advantage; in
    no order, with about half of it legal."""
    rng, group = np.random.default_rng(seed), rl(policy)
    old = group.log_probs_old + rng.normal(0, 0.4, (40, 3)).astype(np.float32)
    old[[10, 20]] = [[-1e-4], [-2e-4]]
    advantages = rng.permutation(group.advantages)
    advantages[[10, 20]] = -0.9, 0.9
    return replace(group, log_probs_old=old, advantages=advantages, legal=rng.random(40) < 0.5)


@dataclass(frozen=True)
class ByHand:
    """A group's loss, and the coefficient of every log-probability's gradient in it."""

    loss: float
    coefficients: np.ndarray  # (G, K)


def ratio(objective: str, pi: np.ndarray, old: np.ndarray, advantage: np.ndarray) -> np.ndarray:
    denominators = {
        "grpo": old,
        "ecpo": np.maximum(pi / (1 + EPS + DELTA), old),
        "gbpo": np.maximum(old, np.where(advantage >= 0, pi, 1 - pi)),
    }
    found: np.ndarray = pi / denominators[objective]
    return found


def preference_by_hand(objective: str, by_token: bool, now: np.ndarray, group: RlSample) -> ByHand:
    old = group.log_probs_old.astype(np.float64)
    if not by_token:
        now, old = now.sum(1, keepdims=True), old.sum(1, keepdims=True)
    advantage = np.broadcast_to(group.advantages[:, None].astype(np.float64), now.shape)
    rho = ratio(objective, np.exp(now), np.exp(old), advantage)
    clipped = np.zeros(rho.shape, bool)
    if objective != "gbpo":
        clipped = np.where(advantage > 0, rho > 1 + EPS, rho < 1 - EPS)
    gained = np.where(clipped, np.clip(rho, 1 - EPS, 1 + EPS), rho) * advantage
    pushes = np.where(clipped, 0, rho * advantage)
    return ByHand(float(-gained.mean()), np.broadcast_to(-pushes / pushes.size, (len(now), 3)))


def format_by_hand(drawn: Sequence[int], now: np.ndarray, group: RlSample) -> ByHand:
    rho = np.exp(now.sum(1) - group.log_probs_old.astype(np.float64).sum(1))
    counts = np.isin(np.arange(40), drawn) & group.legal
    loss = -np.minimum(rho, 1 + EPS)[counts].sum() / len(drawn)
    pushes = np.where(counts & (rho <= 1 + EPS), rho, 0) / len(drawn)
    return ByHand(float(loss), np.broadcast_to(-pushes[:, None], (40, 3)))


def log_probs(step: TrainingStep, group: RlSample) -> Tensor:
    """The policy's, (G, K), with their graph."""
    step.policy.eval()
    memory = step.policy.encode(step.featurizer([group.context]))
    found: Tensor = step.policy.log_probs(memory, torch.from_numpy(group.codes)[None])[0]
    return found


def values(log_prob: Tensor) -> np.ndarray:
    found: np.ndarray = log_prob.detach().numpy().astype(np.float64)
    return found


def expected_gradients(step: TrainingStep, now: list[Tensor], coefficients: list[np.ndarray]) -> list[Tensor | None]:
    """Of the sum over groups of coefficient times log-probability, for every parameter."""
    weighted = [(torch.from_numpy(c).float() * n).sum() for c, n in zip(coefficients, now, strict=True)]
    return list(torch.autograd.grad(torch.stack(weighted).sum(), step.parameters, allow_unused=True))


def run(step: TrainingStep, groups: list[RlSample], number: int = STEP) -> tuple[StepMetrics, list[Tensor | None]]:
    metrics = step.run([], groups, number)
    return metrics, [parameter.grad for parameter in step.parameters]


def assert_same(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    assert any(gradient is not None and gradient.to_dense().any() for gradient in expected)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one.to_dense(), other.to_dense(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("level", ["sequence", "token", "auto"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_preference_term_by_hand(objective: str, level: str) -> None:
    """``auto`` is by token for GBPO, and of the whole semantic ID for the others."""
    step = reinforcing(objective=objective, ratio_level=level, lambda_format=0.0)
    by_token = level == "token" or (level, objective) == ("auto", "gbpo")
    groups = [drifted(step.policy, seed) for seed in (0, 1)]
    now = [log_probs(step, group) for group in groups]

    def by_hand(name: str, token: bool) -> list[ByHand]:
        return [preference_by_hand(name, token, values(n), group) for n, group in zip(now, groups, strict=True)]

    hands, weight = by_hand(objective, by_token), PREFERENCE / GROUPS_PER_STEP
    losses = {other: np.mean([hand.loss for hand in by_hand(*other)]) for other in product(OBJECTIVES, (True, False))}
    expected = expected_gradients(step, now, [weight * hand.coefficients for hand in hands])
    metrics, gradients = run(step, groups)
    assert metrics.preference_loss == pytest.approx(losses.pop((objective, by_token)), rel=1e-4)
    assert min(abs(metrics.preference_loss - other) for other in losses.values()) > 0.005
    assert_same(gradients, expected)


@pytest.mark.parametrize(("samples", "drawn"), [(0, 2), (1, 1), (9, 9), (100, 40)])
def test_the_format_term_of_the_most_probable_by_hand(samples: int, drawn: int) -> None:
    """Most probable by the behaviour policy, of whole semantic IDs; 0 stands for round(5 G / 128)."""
    step = reinforcing(format_select="top", format_samples=samples, lambda_preference=0.0)
    group = replace(drifted(step.policy), legal=np.arange(40) % 4 != 0)
    now = log_probs(step, group)
    order = np.argsort(-group.log_probs_old.sum(1), kind="stable")
    hand = format_by_hand(order[:drawn].tolist(), values(now), group)
    expected = expected_gradients(step, [now], [FORMAT / GROUPS_PER_STEP * hand.coefficients])
    metrics, gradients = run(step, [group])
    assert metrics.format_loss == pytest.approx(hand.loss, rel=1e-4)
    assert_same(gradients, expected)


@pytest.mark.parametrize(("samples", "drawn"), [(0, 2), (9, 9), (100, 64)])
def test_format_draws_of_a_policy_with_fewer_semantic_ids_than_a_group_has_room_for(samples: int, drawn: int) -> None:
    """Groups then hold all semantic IDs there are: 64 here."""
    settings = tiny_settings("policy.codes=4", "rl.group_size=512", f"rl.format_samples={samples}")
    step = TrainingStep(build_policy(settings.policy), Featurizer(settings.policy, tiny_index()), settings)
    assert step.format_samples == drawn


def test_one_format_draw_is_any_candidate_another_one_each_step() -> None:
    found = []
    for number in range(12):
        step = reinforcing(format_samples=1)
        group = replace(drifted(step.policy), legal=np.ones(40, np.bool_))
        now = values(log_probs(step, group))
        alone = np.array([format_by_hand([k], now, group).loss for k in range(40)])
        metrics = step.run([], [group], number)
        assert np.abs(alone - metrics.format_loss).min() < 1e-5
        found.append(metrics.format_loss)
    assert len(set(found)) > 6


def test_the_format_term_of_all_candidates_needs_no_draw() -> None:
    step = reinforcing(format_samples=40)
    group = drifted(step.policy)
    hand = format_by_hand(range(40), values(log_probs(step, group)), group)
    assert step.run([], [group], STEP).format_loss == pytest.approx(hand.loss, rel=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_two_terms_add_up_by_their_weights(objective: str) -> None:
    step = reinforcing(objective=objective, format_select="top", format_samples=11)
    group = drifted(step.policy)
    now = log_probs(step, group)
    preference = preference_by_hand(objective, objective == "gbpo", values(now), group)
    form = format_by_hand(np.argsort(-group.log_probs_old.sum(1))[:11].tolist(), values(now), group)
    coefficients = (PREFERENCE * preference.coefficients + FORMAT * form.coefficients) / GROUPS_PER_STEP
    expected = expected_gradients(step, [now], [coefficients])
    metrics, gradients = run(step, [group])
    assert (metrics.preference_loss, metrics.format_loss) == pytest.approx((preference.loss, form.loss), rel=1e-4)
    assert_same(gradients, expected)
