"""InfoNCE: closed forms, an independent sum, and which columns are no negatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tokenizer_job.alignment.losses import false_negatives, info_nce
from tokenizer_job.alignment.pairs import Pairs


def unit(rows: int, seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)))


def test_one_pair_has_no_loss() -> None:
    assert info_nce(unit(1, 0), unit(1, 1), 0.07).item() == 0


@pytest.mark.parametrize("batch", [2, 5, 64])
def test_identical_vectors_lose_the_log_of_the_batch(batch: int) -> None:
    same = unit(1, 0).expand(batch, -1)
    assert info_nce(same, same, 0.07).item() == pytest.approx(math.log(batch), rel=1e-5)


def test_the_sum_as_it_is_written() -> None:
    left, right, excluded = unit(4, 0), unit(4, 1), torch.zeros(4, 4, dtype=torch.bool)
    excluded[0, 2] = excluded[3, 0] = True
    share = torch.tensor([0.1, 0.2, 0.3, 0.4])
    total = 0.0
    for i in range(4):
        weight = [math.exp(float(left[i] @ right[j]) / 0.1) / float(share[j]) * (not excluded[i, j]) for j in range(4)]
        total -= math.log(weight[i] / sum(weight)) / 4
    assert info_nce(left, right, 0.1, excluded, share.log()).item() == pytest.approx(total, rel=1e-5)


def test_an_equal_bias_changes_nothing() -> None:
    left, right = unit(6, 0), unit(6, 1)
    torch.testing.assert_close(info_nce(left, right, 0.1, bias=torch.full((6,), 0.7)), info_nce(left, right, 0.1))


def test_an_excluded_column_gets_no_gradient_from_that_row() -> None:
    right = unit(3, 1).requires_grad_()
    excluded = torch.tensor([[False, True, True], [True, False, True], [True, True, False]])
    info_nce(unit(3, 0), right, 0.1, excluded).backward()
    assert right.grad is not None
    assert not right.grad.any()


def test_the_three_kinds_of_false_negatives() -> None:
    known = Pairs(np.array([[0, 1], [0, 2], [3, 0], [4, 5]]), np.empty((0, 2), np.int64)).known(7)
    anchor, other = np.array([0, 4, 0, 6]), np.array([1, 5, 2, 1])
    expected = [
        [False, False, True, True],  # (0, 2) is a pair; column 3 is item 1 again
        [False, False, False, False],
        [True, False, False, True],  # (0, 1) is a pair
        [True, False, False, False],  # item 1 again
    ]
    np.testing.assert_array_equal(false_negatives(anchor, other, known).numpy(), expected)
    itself = false_negatives(np.array([0, 2]), np.array([1, 0]), known)
    assert itself[0, 1]  # column 1 is the anchor itself


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_false_negatives_equal_a_plain_loop(pairs: list[tuple[int, int]]) -> None:
    batch = np.array(pairs)
    excluded = false_negatives(batch[:, 0], batch[:, 1], Pairs(batch, batch[:0]).known(6))
    together = {frozenset(pair) for pair in pairs}
    for row, (i, j) in enumerate(pairs):
        for column, (_, other) in enumerate(pairs):
            false = row != column and (other in (i, j) or frozenset((i, other)) in together)
            assert bool(excluded[row, column]) == false
