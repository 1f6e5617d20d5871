"""Small random indexes, and whether two are the same."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from common.item_index import ItemColumns, ItemIndex
from common.item_index.columns import DTYPES

CODES, LEVELS = 4, 3


def make_index(
    items: int = 40, seed: int = 0, version: int = 1, codes: int = CODES, levels: int = LEVELS, tokenizer: str = "1"
) -> ItemIndex:
    """Random items with few popularities, so that buckets have ties."""
    rng = np.random.default_rng(seed)
    return ItemIndex.build(
        version,
        tokenizer,
        codes,
        item_ids=rng.permutation(10 * items)[:items],
        sids=rng.integers(0, codes, (items, levels)),
        author=rng.integers(0, 9, items),
        tags=rng.integers(-1, 9, (items, 2)),
        music=rng.integers(0, 9, items),
        duration_ms=rng.integers(0, 60_000, items),
        publish_ms=rng.integers(0, 10**12, items),
        popularity=rng.integers(0, 3, items),
        vectors=rng.normal(size=(items, 5)),
    )


indexes = st.builds(make_index, st.integers(1, 60), st.integers(0, 999), codes=st.integers(2, 5), levels=st.integers(2, 5))


def columns_of(index: ItemIndex) -> ItemColumns:
    """What the index was built from, by ascending item id."""
    return {name: getattr(index, name) for name in DTYPES}  # type: ignore[return-value]


def equal(one: ItemIndex, other: ItemIndex) -> bool:
    """Whether two indexes agree in everything that they say."""
    heads = [(i.version, i.tokenizer_version, i.codes, i.levels) for i in (one, other)]
    names = (*DTYPES, "bucket_items", "bucket_starts")
    arrays = [
        [*(getattr(i, name) for name in names), *i.trie.offsets, *i.trie.child_codes, i.trie.leaf_keys] for i in (one, other)
    ]
    return heads[0] == heads[1] and all(np.array_equal(a, b) for a, b in zip(*arrays, strict=True))
