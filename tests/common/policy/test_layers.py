from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from common.policy.layers import code_logits


@pytest.mark.parametrize("rows", [(0,), (7,), (2, 1), (1, 3, 5)])
def test_code_logits_are_products_with_and_without_gradients(rows: tuple[int, ...]) -> None:
    hidden, codes = torch.randn(*rows, 24), torch.randn(40, 24, requires_grad=True)
    with_gradients = code_logits(hidden, codes)
    assert with_gradients.requires_grad
    with torch.no_grad():
        without = code_logits(hidden, codes)
        assert not without.requires_grad
        torch.testing.assert_close(without, functional.linear(hidden, codes), atol=1e-5, rtol=0)
        torch.testing.assert_close(without, with_gradients, atol=1e-5, rtol=0)


def test_code_logits_follow_autocast_without_gradients_too() -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert code_logits(torch.randn(3, 8), torch.randn(5, 8)).dtype == torch.bfloat16
