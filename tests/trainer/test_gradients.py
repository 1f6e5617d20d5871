"""Norms and clipping over dense and sparse gradients against torch's own on dense copies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trainer.gradients import clip_gradients, gradient_norm


def weights() -> list[Tensor]:
    """A table read twice at one row (its gradient is not coalesced), a matrix, and a weight without gradient."""
    torch.manual_seed(0)
    table, matrix = nn.Embedding(8, 3, sparse=True), nn.Linear(3, 2)
    matrix(table(torch.tensor([1, 5, 5, 2])) + table(torch.tensor([5]))).square().sum().backward()
    return [table.weight, *matrix.parameters(), nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize("limit", [0.1, 1e6])
def test_clipping_equals_that_of_dense_gradients(limit: float) -> None:
    ours, dense = weights(), weights()
    assert dense[0].grad is not None
    assert not dense[0].grad.is_coalesced()
    dense[0].grad = dense[0].grad.to_dense()
    norm = torch.nn.utils.clip_grad_norm_(dense, limit)
    torch.testing.assert_close(gradient_norm(p.grad for p in ours), norm)
    clip_gradients(ours, limit)
    assert gradient_norm(p.grad for p in ours).item() == pytest.approx(min(limit, norm.item()), rel=1e-4)
    for one, other in zip(ours, dense, strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(one.grad.to_dense(), other.grad)


def test_nothing_has_norm_zero() -> None:
    assert gradient_norm([None, None]).item() == 0
    clip_gradients([nn.Parameter(torch.ones(2))], 1.0)
