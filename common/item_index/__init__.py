"""Semantic IDs <-> items: immutable, versioned snapshots with item features and the prefix trie."""

from common.item_index.index import MANIFEST, ItemIndex, Trie, latest_index

__all__ = ["MANIFEST", "ItemIndex", "Trie", "latest_index"]
