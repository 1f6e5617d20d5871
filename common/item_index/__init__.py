"""Semantic IDs <-> items: immutable, versioned snapshots with item features and the prefix trie."""

from common.item_index.columns import ItemColumns
from common.item_index.follower import IndexFollower
from common.item_index.index import ItemIndex
from common.item_index.retention import pin, prune
from common.item_index.snapshot import MANIFEST, latest_index, read_note, snapshot_path, versions
from common.item_index.trie import Trie

__all__ = [
    "MANIFEST",
    "IndexFollower",
    "ItemColumns",
    "ItemIndex",
    "Trie",
    "latest_index",
    "pin",
    "prune",
    "read_note",
    "snapshot_path",
    "versions",
]
