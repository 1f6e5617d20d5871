from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.objectives import early_clipped_ratio, ecpo_loss, format_loss, next_token_loss

EPS, DELTA = 0.2, 0.1
ROWS = [  # pi, pi_old, advantage, ratio, coefficient of grad log pi in the maximised objective
    (0.20, 0.20, +1, 1.00, 1.0), (0.25, 0.20, +1, 1.25, 0.0), (0.30, 0.20, +1, 1.30, 0.0), (0.10, 0.20, +1, 0.50, 0.5),
    (0.20, 0.20, -1, 1.00, -1.0), (0.25, 0.20, -1, 1.25, -1.25), (0.30, 0.20, -1, 1.30, -1.3), (0.50, 0.10, -1, 1.30, -1.3),
    (0.90, 0.05, -1, 1.30, -1.3), (0.10, 0.20, -1, 0.50, 0.0), (0.01, 0.01, -1, 1.00, -1.0),
]  # fmt: skip


@pytest.mark.parametrize(("pi", "old", "advantage", "ratio", "coefficient"), ROWS)
def test_ecpo_coefficients(pi: float, old: float, advantage: int, ratio: float, coefficient: float) -> None:
    log_prob = torch.tensor([math.log(pi)], dtype=torch.float64, requires_grad=True)
    log_old = torch.tensor([math.log(old)], dtype=torch.float64)
    assert early_clipped_ratio(log_prob, log_old, EPS, DELTA).item() == pytest.approx(ratio)
    ecpo_loss(log_prob, log_old, torch.tensor([float(advantage)], dtype=torch.float64), EPS, DELTA).backward()
    assert log_prob.grad is not None
    assert -log_prob.grad.item() == pytest.approx(coefficient, abs=1e-9)


def test_ecpo_of_a_group() -> None:
    advantage = torch.tensor([-1.2649, -0.6325, 0.6325, 1.2649], dtype=torch.float64)
    log_prob = torch.tensor([0.30, 0.10, 0.05, 0.08], dtype=torch.float64).log().requires_grad_()
    log_old = torch.tensor([0.10, 0.10, 0.05, 0.05], dtype=torch.float64).log()
    loss = ecpo_loss(log_prob, log_old, advantage, EPS, DELTA)
    loss.backward()
    assert loss.item() == pytest.approx(0.031623, abs=1e-4)
    assert log_prob.grad is not None
    assert (-4 * log_prob.grad).tolist() == pytest.approx([-1.6444, -0.6325, 0.6325, 0.0], abs=1e-4)


def test_the_denominator_is_a_constant_of_the_gradient() -> None:
    """Finite differences with the denominator frozen agree with autograd: stop-gradient really blocks."""
    log_prob = torch.tensor([math.log(0.5)], dtype=torch.float64, requires_grad=True)
    log_old = torch.tensor([math.log(0.1)], dtype=torch.float64)
    frozen = max(math.log(0.5) - math.log(1.3), math.log(0.1))
    [gradient] = torch.autograd.grad(early_clipped_ratio(log_prob, log_old, EPS, DELTA).sum(), [log_prob])
    step = 1e-6
    numeric = (math.exp(math.log(0.5) + step - frozen) - math.exp(math.log(0.5) - step - frozen)) / (2 * step)
    assert gradient.item() == pytest.approx(numeric, rel=1e-6)


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
    format_loss(log_prob, torch.full((100,), -3.0), legal, 20, EPS, DELTA, torch.Generator().manual_seed(0)).backward()
    assert log_prob.grad is not None
    raised = log_prob.grad < 0
    assert not (log_prob.grad > 0).any()
    assert raised[~legal].sum() == 0
    assert 3 <= raised.sum() <= 17


def test_next_token_loss_is_a_sum_over_levels_and_a_mean_over_targets() -> None:
    log_probs = torch.tensor([[[-1.0, -2.0, -3.0], [-9.0, -9.0, -9.0]], [[-1.0, -1.0, -1.0], [-2.0, -2.0, -2.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    assert next_token_loss(log_probs, mask).item() == pytest.approx((6 + 3 + 6) / 3)
    assert next_token_loss(log_probs, torch.zeros_like(mask)).item() == 0.0
