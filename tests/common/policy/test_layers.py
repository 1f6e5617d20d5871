from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from common.policy.layers import LARGE_PRODUCT, product

LARGE, OUTPUTS = 700, 400
assert LARGE * OUTPUTS > LARGE_PRODUCT


@pytest.mark.parametrize("rows", [(0,), (7,), (LARGE,), (2, LARGE), (LARGE, 1)])
@pytest.mark.parametrize("bias", [None, torch.randn(OUTPUTS)])
def test_large_and_small_products_are_the_same_with_gradients_and_without(
    rows: tuple[int, ...], bias: torch.Tensor | None
) -> None:
    x, weight = torch.randn(*rows, 24), torch.randn(OUTPUTS, 24, requires_grad=True)
    expected = functional.linear(x, weight, bias)
    assert product(x, weight, bias).requires_grad
    with torch.no_grad():
        found = product(x, weight, bias)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_rows_need_not_be_contiguous() -> None:
    x, weight = torch.randn(24, LARGE).T, torch.randn(OUTPUTS, 48)[:, ::2]
    with torch.no_grad():
        torch.testing.assert_close(product(x, weight), functional.linear(x, weight), atol=2e-5, rtol=0)


def test_large_products_follow_autocast() -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert product(torch.randn(LARGE, 8), torch.randn(OUTPUTS, 8)).dtype == torch.bfloat16
