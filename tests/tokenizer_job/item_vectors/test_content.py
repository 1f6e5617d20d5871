"""Content vectors from given embeddings and from attributes, of the first catalogue and of items that come later."""

from __future__ import annotations

import numpy as np
import pytest

from common.content import Content
from common.messages import Item
from tokenizer_job.item_vectors.content import AttributeContent, GivenContent, fit_content, unit_rows


def item(item_id: int, author: int = 0, tags: tuple[int, ...] = (), music: int = 0) -> Item:
    return Item(item_id=item_id, author_id=author, tags=list(tags), music_id=music)


def test_attributes_hold_only_values_that_items_share() -> None:
    items = [
        item(0, author=5, tags=(1, 2), music=9),
        item(1, author=5, tags=(1, 3)),
        item(2, author=7, tags=(2, 2)),
        item(3),
    ]
    assert AttributeContent.fit(items, 2).values.tolist() == [[0, 5], [2, 1], [2, 2]]  # author 5, tags 1 and 2


def test_one_number_means_different_things_as_author_and_music() -> None:
    items = [item(0, author=5), item(1, author=5), item(2, music=5), item(3, music=5)]
    assert AttributeContent.fit(items, 2).values.tolist() == [[0, 5], [1, 5]]


def test_items_with_equal_attributes_have_equal_vectors_of_length_one() -> None:
    items = [*(item(i, author=1 + i % 4, tags=(i % 3,)) for i in range(24)), item(24)]
    vectors = fit_content(items, None, 6)(items, None)
    likeness = vectors @ vectors.T
    np.testing.assert_allclose(likeness.diagonal()[:24], 1.0, atol=1e-5)
    for a in range(24):
        same = [b for b in range(24) if (items[a].author_id, items[a].tags) == (items[b].author_id, items[b].tags)]
        np.testing.assert_allclose(likeness[a, same], 1.0, atol=1e-4)
        assert likeness[a].argmin() not in same
    assert not vectors[24].any()


def test_an_items_vector_does_not_depend_on_those_it_comes_with() -> None:
    items = [item(i, author=1 + i % 5, tags=(i % 3, 7 + i % 2)) for i in range(30)]
    encoder = fit_content(items, None, 8)
    late = [item(99, author=3, tags=(1,)), item(98, author=77, tags=(2, 55)), item(97, author=77)]
    together = encoder([*items[:3], *late], None)
    np.testing.assert_allclose(encoder(items, None)[:3], together[:3], atol=1e-6)
    for k, one in enumerate(late):
        np.testing.assert_allclose(encoder([one], None)[0], together[3 + k], atol=1e-6)
    assert together[4].any()  # one shared tag is enough
    assert not together[5].any()  # nothing of it is known


def test_wide_given_vectors_keep_their_leading_directions() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(50, 2))
    wide = unit_rows((plane @ rng.normal(size=(2, 20)) + 3).astype(np.float32))
    vectors = GivenContent.fit(Content.of(wide), 4)([], Content.of(wide))
    centred = wide - wide.mean(0)
    spectrum = np.linalg.svd(centred, compute_uv=False)
    expected = unit_rows(centred)
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=2 * spectrum[4] / spectrum[0] + 0.05)


def test_narrow_given_vectors_are_normalised_and_padded() -> None:
    given = Content.of(np.array([[3, 4], [0, 0]], np.float32))
    encoder = GivenContent.fit(given, 3)
    np.testing.assert_allclose(encoder([], given), np.array([[0.6, 0.8, 0], [0, 0, 0]]), atol=1e-6)


def test_content_of_another_width_is_refused() -> None:
    encoder = GivenContent.fit(Content.of(np.ones((2, 3))), 4)
    with pytest.raises(ValueError, match="width 3, as at the fit, got width 5"):
        encoder([], Content.of(np.ones((2, 5))))
    with pytest.raises(ValueError, match="got none"):
        encoder([], None)


def test_unit_rows_keep_zero_rows() -> None:
    assert unit_rows(np.zeros((2, 3))).tolist() == [[0, 0, 0], [0, 0, 0]]
