"""Items as the columns of an item index."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import numpy.typing as npt

from common.messages import Item

Ints = npt.NDArray[np.int64]


class ItemColumns(TypedDict):
    """One row per item; tags (N, T) padded with -1."""

    item_ids: Ints
    author: Ints
    tags: Ints
    music: Ints
    duration_ms: Ints
    publish_ms: Ints


def item_columns(items: list[Item]) -> ItemColumns:
    """The columns that items bring themselves."""
    return ItemColumns(
        item_ids=np.array([item.item_id for item in items], np.int64),
        author=np.array([item.author_id for item in items], np.int64),
        tags=_padded([item.tags for item in items]),
        music=np.array([item.music_id for item in items], np.int64),
        duration_ms=np.array([item.duration_ms for item in items], np.int64),
        publish_ms=np.array([item.publish_ms for item in items], np.int64),
    )


def _padded(tags: list[list[int]]) -> Ints:
    """One row of tags per item, padded with -1 to the longest (at least one column)."""
    out = np.full((len(tags), max(1, *map(len, tags))), -1, np.int64)
    for row, values in zip(out, tags, strict=True):
        row[: len(values)] = values
    return out
