"""A small world of items in communities: content shows the community faintly, pairs and captions show it."""

from __future__ import annotations

import numpy as np

from common.content import Content
from common.settings import AlignmentSettings
from tokenizer_job.alignment.pairs import Pairs

ITEMS, COMMUNITIES, WIDTH = 60, 4, 12
COLOURS = ("red", "green", "blue", "white")
TINY = AlignmentSettings(
    width=16, queries=2, layers=2, heads=2, steps=6, batch=16, caption_batch=8, caption_tokens=6, learning_rate=3e-3
)


def community() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Each item's community."""
    return np.arange(ITEMS) % COMMUNITIES


def content() -> Content:
    """Two tokens per item (every third has one): noise, and a little of the community's direction."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(COMMUNITIES, WIDTH))
    tokens = rng.normal(size=(ITEMS, 2, WIDTH)) + 0.5 * directions[community()][:, None]
    mask = np.ones((ITEMS, 2), np.bool_)
    mask[::3, 1] = False
    return Content.of(tokens, mask)


def captions() -> list[str]:
    """The community's colour among other words."""
    return [f"nail polish {COLOURS[group]} no. {item % 7}" for item, group in enumerate(community())]


def pairs() -> Pairs:
    """Pairs within a community, 100 of each source."""
    rng = np.random.default_rng(1)
    left = rng.integers(0, ITEMS, 200)
    right = (left + COMMUNITIES * rng.integers(1, ITEMS // COMMUNITIES, 200)) % ITEMS
    both = np.stack([left, right], 1)
    return Pairs(both[:100], both[100:])
