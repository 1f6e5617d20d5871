"""Content vectors from given embeddings and from attributes."""

from __future__ import annotations

import numpy as np

from common.messages import Item
from tokenizer_job.item_vectors.content import attributes, content_vectors, reduce_width, unit_rows


def item(item_id: int, author: int = 0, tags: tuple[int, ...] = (), music: int = 0) -> Item:
    return Item(item_id=item_id, author_id=author, tags=list(tags), music_id=music)


def test_attributes_hold_only_values_that_items_share() -> None:
    items = [
        item(0, author=5, tags=(1, 2), music=9),
        item(1, author=5, tags=(1, 3)),
        item(2, author=7, tags=(2, 2)),
        item(3),
    ]
    matrix = attributes(items).toarray()  # columns: author 5, tag 1, tag 2
    half = 0.5**0.5
    np.testing.assert_allclose(matrix, [[1, half, half], [1, half, 0], [0, 0, 1], [0, 0, 0]])


def test_one_number_means_different_things_as_author_and_music() -> None:
    matrix = attributes([item(0, author=5), item(1, author=5), item(2, music=5), item(3, music=5)]).toarray()
    assert (matrix @ matrix.T).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_items_with_equal_attributes_have_equal_vectors_of_length_one() -> None:
    items = [item(i, author=1 + i % 4, tags=(i % 3,)) for i in range(24)]
    vectors = content_vectors([*items, item(24)], None, 6)
    likeness = vectors @ vectors.T
    np.testing.assert_allclose(likeness.diagonal()[:24], 1.0, atol=1e-5)
    for a in range(24):
        same = [b for b in range(24) if (items[a].author_id, items[a].tags) == (items[b].author_id, items[b].tags)]
        np.testing.assert_allclose(likeness[a, same], 1.0, atol=1e-4)
        assert likeness[a].argmin() not in same
    assert not vectors[24].any()


def test_wide_given_vectors_keep_their_leading_directions() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(50, 2))
    wide = (plane @ rng.normal(size=(2, 20)) + 3).astype(np.float32)
    reduced = reduce_width(wide, 4)
    centred = wide - wide.mean(0)
    np.testing.assert_allclose(reduced @ reduced.T, centred @ centred.T, atol=1e-3)
    assert content_vectors([item(i) for i in range(50)], wide, 4).shape == (50, 4)


def test_narrow_given_vectors_are_normalised_and_padded() -> None:
    given = np.array([[3, 4], [0, 0]], np.float32)
    expected = np.array([[0.6, 0.8, 0], [0, 0, 0]])
    np.testing.assert_allclose(content_vectors([item(0), item(1)], given, 3), expected, atol=1e-6)


def test_unit_rows_keep_zero_rows() -> None:
    assert unit_rows(np.zeros((2, 3))).tolist() == [[0, 0, 0], [0, 0, 0]]
