"""Small real objects that many tests share."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.context import Context, UserEvents
from common.item_index import ItemIndex
from common.settings import MoeSettings, PolicySettings

NOW_MS = 1_700_000_000_000
TINY = PolicySettings(
    d_model=32, heads=4, ffn=64, codes=8, feature_width=8, static_fields=["age"], short_length=5, positive_length=4
)


def tiny(**changes: Any) -> PolicySettings:
    """`TINY` with some settings changed, and validated again."""
    return PolicySettings(**TINY.model_dump() | changes)


LIFELONG: dict[str, Any] = {"lifelong_length": 6, "lifelong_queries": 3}
GROUPED = {"kv_layers": 2, "kv_split": 2, "kv_groups": 2, "embed_width": 12, "context_mlp": True}
MIXTURES = MoeSettings(experts=4, shared=1, width=16, gamma=1e-2, encoder_blocks=[0], decoder_blocks=[0]).model_dump()
MIXED = tiny(moe=MIXTURES)
"""V1 with mixtures of experts in both stacks."""
ARCHITECTURES = {
    "encoder-decoder": TINY,
    "encoder-decoder-mixed": MIXED,
    "encoder-decoder-item-path": tiny(item_path=True),
    "encoder-decoder-lifelong": tiny(**LIFELONG),
    "lazy": tiny(architecture="lazy_decoder"),
    "lazy-grouped": tiny(architecture="lazy_decoder", decoder_layers=5, lazy=GROUPED, **LIFELONG),
    "session": tiny(architecture="session_decoder", session_items=3, **LIFELONG),
    "lazy-mixed": tiny(architecture="lazy_decoder", moe=MIXTURES),
    "session-mixed": tiny(architecture="session_decoder", session_items=2, moe=MIXTURES),
    "session-codes-only": tiny(
        architecture="session_decoder", session_items=2, vid_input=False, side_inputs=False, item_path=True
    ),
}
"""Every architecture, in settings that reach all of its parts."""


def make_index(items: int = 60, codes: int = 8, levels: int = 3, seed: int = 0) -> ItemIndex:
    """Items 100, 101, … with random semantic IDs; some share one."""
    rng = np.random.default_rng(seed)
    return ItemIndex.build(
        version=1,
        tokenizer_version="test",
        codes=codes,
        item_ids=np.arange(100, 100 + items),
        sids=rng.integers(0, codes, (items, levels)).astype(np.int32),
        author=rng.integers(0, 9, items),
        tags=rng.integers(-1, 9, (items, 2)),
        music=rng.integers(0, 9, items),
        duration_ms=rng.integers(1000, 60_000, items),
        publish_ms=np.zeros(items),
        popularity=rng.random(items).astype(np.float32),
        vectors=rng.normal(size=(items, 6)).astype(np.float32),
    )


def make_events(count: int, seed: int = 0, items: int = 60) -> UserEvents:
    """Events one minute apart that end an hour before `NOW_MS`; a few items are unknown to `make_index`."""
    rng = np.random.default_rng(seed)
    return UserEvents(
        rng.integers(95, 100 + items, count),
        NOW_MS - 3_600_000 - 60_000 * np.arange(count, 0, -1),
        rng.integers(0, 90_000, count),
        rng.integers(0, 60_000, count),
        rng.integers(0, 512, count),
    )


def make_context(count: int, seed: int = 0, user_id: int = 7) -> Context:
    """A context with ``count`` past events."""
    return Context(user_id, NOW_MS, 1, {"age": 3}, make_events(count, seed))
