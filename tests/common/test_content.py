"""Content tokens and their mask."""

from __future__ import annotations

import numpy as np
import pytest

from common.content import Content


def test_one_vector_per_item_is_one_token() -> None:
    content = Content.of(np.eye(3, 2))
    assert (len(content), content.width, content.tokens.shape) == (3, 2, (3, 1, 2))
    np.testing.assert_array_equal(content.pooled(), np.eye(3, 2))


def test_absent_tokens_are_zero_whatever_they_held() -> None:
    tokens = np.array([[[1.0, 1.0], [np.nan, 5.0]]])
    content = Content.of(tokens, np.array([[True, False]]))
    np.testing.assert_array_equal(content.tokens, [[[1, 1], [0, 0]]])
    np.testing.assert_array_equal(content.pooled(), [[1, 1]])


def test_rows_are_taken_in_order() -> None:
    content = Content.of(np.arange(6.0).reshape(3, 2)).take(np.array([2, 0]))
    np.testing.assert_array_equal(content.tokens[:, 0], [[4, 5], [0, 1]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_named_by_its_row(bad: float) -> None:
    vectors = np.ones((4, 2))
    vectors[2, 1] = bad
    with pytest.raises(ValueError, match="row 2"):
        Content.of(vectors)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shape"):
        Content.of(np.ones(3))
    with pytest.raises(ValueError, match="mask"):
        Content.of(np.ones((3, 2)), np.ones((3, 2), np.bool_))
    with pytest.raises(ValueError, match="3 wide, row 1 has one of 2"):
        Content.of_lists([[[1, 2, 3]], [[1, 2]]], 3)
