"""New items while everything runs: encoded with the frozen tokenizer, put into the next index snapshot.

No published semantic ID moves, and no model needs an update: the tokens exist already (OneRec technical report, section
"Tokenizer"). Pure of any broker: `service` feeds it.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from common.content import Content
from common.item_index import ItemIndex
from common.messages import ItemEvent
from common.session_log import DAY_MS
from common.settings import OnlineSettings
from tokenizer_job.columns import item_columns
from tokenizer_job.drift import Drift
from tokenizer_job.tokenizer import Tokenizer, residual_norms


class OnlineTokenizer:
    """Collects what happened to items, and makes the next snapshot of it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        index: ItemIndex,
        settings: OnlineSettings,
        drift: Drift | None = None,
        removed: Collection[int] = (),
    ) -> None:
        """``removed`` are items of the index that are to go. ValueError if the index was made by another tokenizer."""
        if index.tokenizer_version != tokenizer.card.version:
            raise ValueError(
                f"item index {index.version} was made by tokenizer {index.tokenizer_version}, not {tokenizer.card.version}"
            )
        self.tokenizer, self.index, self.settings = tokenizer, index, settings
        self.drift = drift or Drift(reference=tokenizer.card.residual_norm)
        self._new: dict[int, ItemEvent] = {}
        self._removed = set(removed)

    @property
    def removed(self) -> list[int]:
        """Items of the index that are to go with the next snapshot."""
        return sorted(self._removed)

    @property
    def waiting(self) -> int:
        """Changes that the next snapshot will bring."""
        return len(self._new) + len(self._removed)

    def take(self, event: ItemEvent) -> str:
        """Remember a change; returns what it is: ``new``, ``removed``, or ``known`` for what changes nothing.

        Raises:
            ValueError: nothing is known of the item that its semantic ID could be made of.
        """
        item_id = event.item.item_id
        indexed = self.index.rows([item_id])[0] >= 0
        if event.removed:
            dropped = self._new.pop(item_id, None) is not None
            if indexed:
                self._removed.add(item_id)
            return "removed" if indexed or dropped else "known"
        if (indexed and item_id not in self._removed) or item_id in self._new:
            return "known"
        vector = self._vectors([event])
        if not vector.any():
            raise ValueError(f"item {item_id}: neither its content nor its author, tags or music are known to the tokenizer")
        if not np.isfinite(vector).all():  # no index takes it, so that no snapshot would be made with it, nor any later one
            raise ValueError(f"item {item_id}: its content is too large to be encoded")
        self._new[item_id] = event
        return "new"

    def next_index(self) -> ItemIndex | None:
        """The snapshot with all changes, which are then forgotten; None if there is none.

        Its version is one higher, or more where items go and others come. An index has at least one item: where all would
        go the newest stays until others have come.
        """
        index, horizon = self.index, self._horizon()
        gone = self._removed | set(index.item_ids[(index.publish_ms > 0) & (index.publish_ms < horizon)].tolist())
        fresh = [event for event in self._new.values() if not 0 < event.item.publish_ms < horizon]
        stays = {int(index.item_ids[index.publish_ms.argmax()])} if len(gone) == len(index) else set()
        if gone - stays:
            index = index.without(index.version + 1, sorted(gone - stays))
        if fresh := [event for event in fresh if event.item.item_id not in stays]:
            index = self._with(index, fresh)
            if stays and not stays & self._new.keys():
                index, stays = index.without(index.version + 1, sorted(stays)), set()
        self._new, self._removed = {}, (stays & self._removed) - self._new.keys()
        changed = index if index is not self.index else None
        self.index = index
        return changed

    def _with(self, index: ItemIndex, events: list[ItemEvent]) -> ItemIndex:
        vectors = self._vectors(events)
        sids = self.tokenizer.place(vectors, index)
        nearest = self.tokenizer.quantizer.encode(vectors)
        numbered = np.pad(nearest, ((0, 0), (0, index.levels - nearest.shape[1])))  # the first with these codes has number 0
        self.drift = self.drift.after(residual_norms(self.tokenizer.quantizer, vectors, nearest), ~index.is_legal(numbered))
        return index.extended(
            index.version + 1,
            **item_columns([event.item for event in events]),
            sids=sids,
            popularity=np.zeros(len(events), np.float32),
            vectors=vectors,
        )

    def _horizon(self) -> int:
        """Items published before this time (unix ms) expire. The clock is the newest item's time: a log says it again."""
        days = self.settings.max_age_days
        newest = max(int(self.index.publish_ms.max()), *(event.item.publish_ms for event in self._new.values()), 0)
        return newest - days * DAY_MS if days else 0

    def _vectors(self, events: list[ItemEvent]) -> npt.NDArray[np.float32]:
        width = self.tokenizer.encoder.content_width
        content = None if width is None else Content.of_lists([event.content for event in events], width)
        return self.tokenizer.encoder.encode([event.item for event in events], content)
