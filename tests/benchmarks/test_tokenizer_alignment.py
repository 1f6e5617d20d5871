"""The alignment benchmark: its recall by hand, its splits, and that nothing of a held-out item is trained on."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from benchmarks.tokenizer_alignment import World, compare, held_out_items, read_world, recall, validation_items
from tests.tokenizer_job.alignment.worlds import ITEMS, TINY, captions, community, content, pairs
from tokenizer_job.alignment.pairs import Pairs
from tokenizer_job.alignment.training import AlignmentFit

BEAUTY = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "amazon_beauty"


def tiny_world() -> World:
    rng = np.random.default_rng(0)
    others = [np.flatnonzero((community() == community()[item]) & (np.arange(ITEMS) != item)) for item in range(ITEMS)]
    neighbours = np.stack([rng.choice(rows, 3, replace=False) for rows in others])
    return World(content(), captions(), pairs(), neighbours)


def test_recall_by_hand() -> None:
    angles = np.radians([0, 10, 30, 60, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    neighbours = np.array([[1, 2], [4, -1], [-1, -1], [4, 0], [0, -1]])
    asked = np.array([True, True, True, True, False])
    # 0 finds 1 and 2: 1; 1 finds 0 and 2, not 4: 0; 2 has no neighbours; 3 finds 2 and 4: one half.
    assert recall(vectors, neighbours, asked) == pytest.approx((1 + 0 + 0.5) / 3)


def test_validation_items_are_never_held_out() -> None:
    splits = [held_out_items(100, seed) for seed in range(5)]
    assert all(split.sum() == 20 for split in splits)
    assert validation_items(100).sum() == 16
    assert not any((split & validation_items(100)).any() for split in splits)
    assert not np.array_equal(splits[0], splits[1])


def test_nothing_of_a_held_out_item_is_trained_on() -> None:
    seen: list[tuple[Pairs, list[str]]] = []
    build = AlignmentFit.__init__

    def recording(self: AlignmentFit, *args: object) -> None:
        build(self, *args)  # type: ignore[arg-type]
        seen.append((self.pairs, args[1]))  # type: ignore[arg-type]

    with patch.object(AlignmentFit, "__init__", recording):
        result = compare(tiny_world(), TINY, (0, 1), lambda _: None)
    assert len(seen) == 4
    for (trained, texts), seed in zip(seen, (0, 0, 1, 1), strict=True):
        held_out = held_out_items(ITEMS, seed)
        assert len(trained)
        assert not held_out[np.concatenate([trained.user_to_item, trained.item_to_item])].any()
        assert [not text for text in texts] == held_out.tolist()
    figures = result.details["seeds"]
    assert result.ratio == pytest.approx(
        sum(f["held_out_aligned"] for f in figures) / sum(f["held_out_content"] for f in figures)
    )
    assert all(0 <= f["held_out_aligned"] <= 1 and f["perplexity"] > 1 for f in figures)


@pytest.mark.slow
@pytest.mark.skipif(not BEAUTY.is_dir(), reason="../shared/data/amazon_beauty is absent")
def test_beauty_has_what_is_measured() -> None:
    world = read_world(BEAUTY, lambda _: None)
    assert len(world.content) == len(world.captions) == len(world.neighbours) == 12_101
    assert ((world.neighbours >= 0).any(1)).mean() > 0.6
    assert min(len(world.pairs.user_to_item), len(world.pairs.item_to_item)) > 10_000
