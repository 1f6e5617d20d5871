from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from common.settings import RlSettings
from trainer.objectives import (
    Objective,
    dpo_loss,
    ecpo_loss,
    format_draw,
    format_loss,
    next_token_loss,
    preference_loss,
    preference_ratio,
)

EPS, DELTA = 0.2, 0.1
OBJECTIVES: tuple[Objective, ...] = ("grpo", "ecpo", "gbpo")
ROWS = [  # pi, pi_old, advantage; coefficient of grad log pi in the maximised objective by GRPO, ECPO, GBPO
    (0.20, 0.20, +1, 1.0, 1.0, 1.0), (0.25, 0.20, +1, 0.0, 0.0, 1.0), (0.30, 0.20, +1, 0.0, 0.0, 1.0),
    (0.10, 0.20, +1, 0.5, 0.5, 0.5), (0.20, 0.20, -1, -1.0, -1.0, -0.25), (0.25, 0.20, -1, -1.25, -1.25, -0.3333),
    (0.30, 0.20, -1, -1.5, -1.3, -0.4286), (0.50, 0.10, -1, -5.0, -1.3, -1.0), (0.90, 0.05, -1, -18.0, -1.3, -9.0),
    (0.10, 0.20, -1, 0.0, 0.0, -0.1111), (0.01, 0.01, -1, -1.0, -1.0, -0.0101),
]  # fmt: skip


def loss_of(objective: Objective, log_prob: Tensor, log_prob_old: Tensor, advantage: Tensor) -> Tensor:
    ratio = preference_ratio(objective, log_prob, log_prob_old, advantage, EPS, DELTA)
    return preference_loss(objective, ratio, advantage, EPS)


def logs(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def gradient(loss: Tensor, by: Tensor) -> Tensor:
    return torch.autograd.grad(loss, [by])[0]


@pytest.mark.parametrize(("pi", "old", "advantage", "grpo", "ecpo", "gbpo"), ROWS)
def test_the_coefficient_of_each_objective(
    pi: float, old: float, advantage: int, grpo: float, ecpo: float, gbpo: float
) -> None:
    for objective, expected in zip(OBJECTIVES, (grpo, ecpo, gbpo), strict=True):
        log_prob = logs(pi).requires_grad_()
        loss = loss_of(objective, log_prob, logs(old), torch.tensor([float(advantage)], dtype=torch.float64))
        assert -gradient(loss, log_prob).item() == pytest.approx(expected, abs=1e-4), objective


@pytest.mark.parametrize(
    ("pi", "old", "advantage", "expected"),
    [(1e-6, 1e-6, -1, -1e-6), (1e-6, 0.5, -1, -1e-6), (1e-6, 0.5, +1, 2e-6), (1 - 1e-6, 1e-6, -1, -1e6)],
)
def test_gbpo_clips_nothing_however_small_or_large_the_ratio(pi: float, old: float, advantage: int, expected: float) -> None:
    log_prob = logs(pi).requires_grad_()
    loss = loss_of("gbpo", log_prob, logs(old), torch.tensor([float(advantage)], dtype=torch.float64))
    assert -gradient(loss, log_prob).item() == pytest.approx(expected, rel=1e-4)


def test_a_certain_negative_of_gbpo_pushes_logits_as_binary_cross_entropy_does() -> None:
    """In fp32, where the probability rounds to 1: the push is finite, and bounded by that of cross-entropy, 1."""
    for certainty in (5.0, 12.0, 15.0, 20.0, 40.0):
        logits = torch.tensor([certainty, 0.0, -1.0], requires_grad=True)
        log_prob = logits.log_softmax(-1)[:1]
        loss = loss_of("gbpo", log_prob, torch.full((1,), -50.0), torch.tensor([-1.0]))
        assert gradient(loss, logits).abs().max() < 1.7, certainty


def test_a_group_by_each_objective() -> None:
    advantage = torch.tensor([-1.2649, -0.6325, 0.6325, 1.2649], dtype=torch.float64)
    old = logs(0.10, 0.10, 0.05, 0.05)
    for objective, value, expected in (
        ("ecpo", -0.031623, [-1.6444, -0.6325, 0.6325, 0.0]),
        ("grpo", -0.569210, [-3.7947, -0.6325, 0.6325, 0.0]),
    ):
        log_prob = logs(0.30, 0.10, 0.05, 0.08).requires_grad_()
        loss = loss_of(objective, log_prob, old, advantage)  # type: ignore[arg-type]
        assert -loss.item() == pytest.approx(value, abs=1e-4)
        assert (-4 * gradient(loss, log_prob)).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("objective", "expected"), [("grpo", [-0.9, 0.6, 0.3]), ("ecpo", [-0.9, 0.6, 0.3]), ("gbpo", [-0.1, 0.066667, 0.033333])]
)
def test_what_a_negative_does_to_the_logits(objective: Objective, expected: list[float]) -> None:
    """GBPO pushes as the gradient of binary cross-entropy does; the others push an improbable action as hard as any."""
    logits = logs(0.1, 0.6, 0.3).requires_grad_()
    log_prob = logits.log_softmax(0)[:1]
    loss = loss_of(objective, log_prob, log_prob.detach(), torch.tensor([-1.0], dtype=torch.float64))
    assert (-gradient(loss, logits)).tolist() == pytest.approx(expected, abs=1e-6)
    if objective == "gbpo":
        binary = torch.log1p(-logits.softmax(0)[0])
        assert gradient(binary, logits).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("grpo", [0.9374, 0.0557, 0.0000, 0.0034, 0.0034]),
        ("ecpo", [0.9374, 0.0557, 0.0000, 0.0034, 0.0034]),
        ("gbpo", [0.5511, 0.3004, 0.0588, 0.0448, 0.0448]),
    ],
)
def test_squeezing(objective: Objective, expected: list[float]) -> None:
    """Five steps against one action: by ECPO the most probable one absorbs all, and innocent rare ones nearly vanish."""
    logits = logs(0.5, 0.3, 0.1, 0.05, 0.05)
    for _ in range(5):
        logits = logits.detach().requires_grad_()
        log_prob = logits.log_softmax(0)[2:3]
        loss = loss_of(objective, log_prob, log_prob.detach(), torch.tensor([-1.0], dtype=torch.float64))
        logits = logits - gradient(loss, logits)
    assert logits.softmax(0).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    ("pi", "old", "advantage"), [(0.5, 0.45, -1.0), (0.5, 0.1, -1.0), (0.19, 0.2, 1.0), (0.6, 0.59, 0.5)]
)
def test_the_gradient_is_that_of_a_constant_denominator(
    objective: Objective, pi: float, old: float, advantage: float
) -> None:
    """Finite differences with the denominator frozen agree with autograd: stop-gradient really blocks."""
    weight = torch.tensor([advantage], dtype=torch.float64)
    log_prob, log_old = logs(pi).requires_grad_(), logs(old)
    frozen = log_prob.detach() - preference_ratio(objective, log_prob, log_old, weight, EPS, DELTA).detach().log()

    def value(shift: float) -> float:
        return preference_loss(objective, (log_prob.detach() + shift - frozen).exp(), weight, EPS).item()

    numeric = (value(1e-6) - value(-1e-6)) / 2e-6
    assert gradient(loss_of(objective, log_prob, log_old, weight), log_prob).item() == pytest.approx(
        numeric, rel=1e-5, abs=1e-9
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_by_token_the_mean_is_over_levels_too(objective: Objective) -> None:
    now, old = logs(0.3, 0.2, 0.5, 0.1, 0.4, 0.2).view(2, 3), logs(0.25, 0.2, 0.4, 0.2, 0.4, 0.3).view(2, 3)
    advantage = torch.tensor([[1.0], [-0.5]], dtype=torch.float64)
    levels = [loss_of(objective, now[:, k], old[:, k], advantage[:, 0]).item() for k in range(3)]
    assert loss_of(objective, now, old, advantage).item() == pytest.approx(sum(levels) / 3)


@given(st.floats(-50, -1e-9), st.floats(-50, 0), st.floats(0, 5))
def test_a_positive_ratio_of_gbpo_is_at_most_one_and_a_negative_gradient_is_bounded(
    new: float, old: float, size: float
) -> None:
    log_prob = torch.tensor([new], dtype=torch.float64, requires_grad=True)
    log_old = torch.tensor([old], dtype=torch.float64)
    positive = preference_ratio("gbpo", log_prob, log_old, torch.tensor([size]).double(), EPS, DELTA)
    assert positive.item() <= 1 + 1e-9
    pushed = gradient(loss_of("gbpo", log_prob, log_old, torch.tensor([-size - 1e-3]).double()), log_prob).item()
    pi = math.exp(new)
    assert 0 <= pushed <= pi / max(1 - pi, 1e-7) * (size + 1e-3) * (1 + 1e-4)


@given(st.floats(-8, 0), st.floats(-8, 0), st.floats(-5, 5))
def test_ecpo_is_grpo_up_to_its_bound(new: float, old: float, advantage: float) -> None:
    if new - old > math.log1p(EPS + DELTA) - 1e-6:
        old = new - math.log1p(EPS + DELTA) + 1e-6
    given_, weight = torch.tensor([new]).double(), torch.tensor([advantage]).double()
    ours, plain = (loss_of(x, given_, torch.tensor([old]).double(), weight).item() for x in ("ecpo", "grpo"))
    assert ours == pytest.approx(plain)


@pytest.mark.parametrize("delta", [1e-3, DELTA])
def test_positives_beyond_the_clip_do_not_push_in_fp32_whatever_delta(delta: float) -> None:
    """With the bound at 1 + eps itself, rounding would decide: there nearly all of these push, with weight 1 + eps."""
    assert RlSettings(delta=delta).delta == delta
    with pytest.raises(ValueError, match="delta"):
        RlSettings(delta=0.0)
    log_prob = (-50 * torch.rand(4000, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss = ecpo_loss(log_prob, log_prob.detach() - 1, torch.ones(4000), EPS, delta)
    assert not gradient(loss, log_prob).any()


def test_dpo_prefers_the_winner_relative_to_the_reference() -> None:
    winner, loser = logs(0.2).requires_grad_(), logs(0.3).requires_grad_()
    reference = logs(0.1), logs(0.3)
    loss = dpo_loss(winner, loser, *reference, beta=0.1)
    assert loss.item() == pytest.approx(math.log1p(2**-0.1))
    push = 0.1 / (1 + 2**0.1)
    assert gradient(loss, winner).item() == pytest.approx(-push)
    assert gradient(dpo_loss(winner, loser, *reference, beta=0.1), loser).item() == pytest.approx(push)
    assert dpo_loss(winner, loser, winner.detach(), loser.detach(), 0.1).item() == pytest.approx(math.log(2))


def test_dpo_of_a_worked_pair() -> None:
    """The policy likes the winner e^.2 times as much as the reference does, and the loser e^-.3 times."""
    winner, loser = torch.tensor([-1.0]).double().requires_grad_(), torch.tensor([-2.0]).double().requires_grad_()
    loss = dpo_loss(winner, loser, winner.detach() - 0.2, loser.detach() + 0.3, beta=0.1)
    assert loss.item() == pytest.approx(0.668460, abs=1e-6)
    assert gradient(loss, winner).item() == pytest.approx(-0.048750, abs=1e-6)


@given(st.floats(-50, 0), st.floats(-50, 0), st.floats(-5, 5))
def test_ecpo_is_finite_and_its_gradient_bounded(new: float, old: float, advantage: float) -> None:
    log_prob = torch.tensor([new], dtype=torch.float64, requires_grad=True)
    loss = ecpo_loss(log_prob, torch.tensor([old]).double(), torch.tensor([advantage]).double(), EPS, DELTA)
    loss.backward()
    assert log_prob.grad is not None
    assert math.isfinite(loss.item())
    assert abs(log_prob.grad.item()) <= (1 + EPS + DELTA) * abs(advantage) + 1e-6, (new, old, advantage)


def test_the_format_term_raises_legal_draws_and_leaves_illegal_ones() -> None:
    log_prob = torch.full((100,), -3.0, requires_grad=True)
    legal = torch.arange(100) % 2 == 0
    drawn = format_draw(log_prob.detach(), 20, "random", torch.Generator().manual_seed(0))
    assert len(drawn.unique()) == 20
    format_loss(log_prob, torch.full((100,), -3.0), legal, drawn, EPS, DELTA).backward()
    assert log_prob.grad is not None
    raised = log_prob.grad < 0
    assert not (log_prob.grad > 0).any()
    assert raised[~legal].sum() == 0
    assert 3 <= raised.sum() <= 17


def test_the_format_term_can_look_at_the_most_probable() -> None:
    drawn = format_draw(torch.tensor([-3.0, -1.0, -2.0, -4.0]), 2, "top", torch.Generator())
    assert drawn.tolist() == [1, 2]


def test_next_token_loss_is_a_sum_over_levels_and_a_mean_over_targets() -> None:
    log_probs = torch.tensor([[[-1.0, -2.0, -3.0], [-9.0, -9.0, -9.0]], [[-1.0, -1.0, -1.0], [-2.0, -2.0, -2.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    assert next_token_loss(log_probs, mask).item() == pytest.approx((6 + 3 + 6) / 3)
    assert next_token_loss(log_probs, torch.zeros_like(mask)).item() == 0.0
