"""Requests and target items -> the preference model's input tensors, with the hard search over each history.

Shape legend: R requests, N targets, E searched events, T tags, F static fields, k events searched per target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from common.context import Context, UserEvents
from common.features import HOUR_MS, hashed, log_bucket, static_row
from common.history import CONTEXT_EVENTS
from common.item_index import ItemIndex
from common.settings import Settings

SEARCH_WINDOW = CONTEXT_EVENTS
"""Only this many newest events of a history are searched: in training no more than requests for scores carry."""
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Shape(BaseModel):
    """Everything that fixes the model's tensors; stored beside the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int
    history: int
    codes: int
    user_buckets: int
    item_buckets: int
    author_buckets: int
    tag_buckets: int
    static_buckets: int
    static_fields: list[str]

    @staticmethod
    def of(settings: Settings, index: ItemIndex) -> Shape:
        """The shape for these settings and the index's codebook."""
        policy = settings.policy.model_dump()
        shared = {name: policy[name] for name in Shape.model_fields if name in policy}
        return Shape(**shared | {"width": settings.reward.width, "history": settings.reward.history, "codes": index.codes})

    def static_rows(self, profile: dict[str, int]) -> list[int]:
        """Rows of a profile's fields in the static table, 0 where a field is absent."""
        return [static_row(f, profile[f], self.static_buckets) if f in profile else 0 for f in self.static_fields]


@dataclass(frozen=True, slots=True)
class Requests:
    """R requests; what user r had done before is ``events[begin[r]:end[r]]``, oldest first."""

    user_id: Ints
    time_ms: Ints
    static: Ints  # (R, F)
    begin: Ints
    end: Ints
    events: UserEvents

    @staticmethod
    def of_contexts(contexts: Sequence[Context], shape: Shape) -> Requests:
        """One request per context."""
        user_id, time_ms = np.array([(one.user_id, one.time_ms) for one in contexts], np.int64).reshape(-1, 2).T
        static = np.array([shape.static_rows(one.profile) for one in contexts], np.int64).reshape(len(contexts), -1)
        end = np.cumsum([len(one.events) for one in contexts], dtype=np.int64)
        begin = np.concatenate([np.zeros(1, np.int64), end[:-1]])
        return Requests(user_id, time_ms, static, begin, end, UserEvents.concatenate([one.events for one in contexts]))


@dataclass(frozen=True, slots=True)
class Targets:
    """N items to judge, grouped by request (``request`` ascending); ``row`` is the item's row of the index, known."""

    request: Ints
    row: Ints
    tab: Ints

    def __len__(self) -> int:
        return len(self.row)

    def take(self, where: slice) -> Targets:
        """A run of targets."""
        return Targets(self.request[where], self.row[where], self.tab[where])


@dataclass(frozen=True, slots=True)
class ItemColumns:
    """Embedding rows of items; 0 is padding."""

    vid: Tensor
    author: Tensor
    tags: Tensor  # (…, T)
    tag_weight: Tensor  # (…, T), sums to 1, or 0 where no tag is known
    duration: Tensor
    sid: Tensor  # level-1 code + 1

    def take(self, rows: Ints) -> ItemColumns:
        """The columns of these rows; -1 reads the last row, which is all padding."""
        where = torch.from_numpy(np.where(rows < 0, len(self.vid) - 1, rows))
        return ItemColumns(*(getattr(self, f.name)[where] for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Inputs:
    """One batch. ``found`` points into the E events of the batch, -1 where the search found fewer than k."""

    item: ItemColumns  # of the N targets
    tab: Tensor  # (N,)
    request: Tensor  # (N,) into the R request columns
    user: Tensor  # (R,)
    static: Tensor  # (R, F)
    hour: Tensor  # (R,)
    event_item: ItemColumns  # of the E events
    play: Tensor  # (E,)
    age: Tensor  # (E,)
    labels: Tensor  # (E,) bitset
    found: Tensor  # (N, k)
    related: Tensor  # (N, k) bool: the event matched; the rest fill up by recency


class InputBuilder:
    """Builds `Inputs` against one item index snapshot."""

    def __init__(self, shape: Shape, index: ItemIndex) -> None:
        self.shape = shape
        self.index = index
        self._items = _item_columns(shape, index)
        self._level1 = np.asarray(index.sids[:, 0])
        self._tags = np.asarray(index.tags)

    def __call__(self, requests: Requests, targets: Targets) -> Inputs:
        """Inputs of N >= 1 targets; looks at nothing beyond each request's own event range."""
        owners, starts = np.unique(targets.request, return_index=True)
        stops = np.append(starts[1:], len(targets))
        size = min(self.shape.history, int((requests.end - requests.begin)[owners].max()))
        found = np.full((len(targets), size), -1, np.int64)
        related = np.zeros((len(targets), size), np.bool_)
        used: list[Ints] = []
        offset = 0
        for owner, start, stop in zip(owners, starts, stops, strict=True):
            first = max(requests.begin[owner], requests.end[owner] - SEARCH_WINDOW)
            event_rows = self.index.rows(requests.events.item_id[first : requests.end[owner]])
            hits, matched = self.search(targets.row[start:stop], event_rows)
            hit = np.zeros(len(event_rows), np.bool_)
            hit[hits] = True
            found[start:stop, : hits.shape[1]] = offset + (np.cumsum(hit) - 1)[hits]
            related[start:stop, : hits.shape[1]] = matched
            used.append(first + np.flatnonzero(hit))
            offset += int(hit.sum())
        return self._assemble(requests, targets, owners, used, found, related)

    def search(self, target_rows: Ints, event_rows: Ints) -> tuple[Ints, Bools]:
        """Hard search: for each target the newest k events that share its level-1 code or a tag, then the newest others.

        Returns positions into the events and whether each is related, both (targets, min(k, events)), in no order.
        """
        related = self._related(target_rows, event_rows)
        size = event_rows.size
        if size <= self.shape.history:
            return np.broadcast_to(np.arange(size), related.shape), related
        # One number says which event it is and whether it is related; the smaller its type, the faster they are ordered.
        kind = np.min_scalar_type(2 * size)
        priority = related * kind.type(size) + np.arange(size, dtype=kind)
        best = np.partition(priority, size - self.shape.history, axis=1)[:, size - self.shape.history :].astype(np.int64)
        return best % size, best >= size

    def _related(self, target_rows: Ints, event_rows: Ints) -> Bools:
        known = event_rows >= 0
        related: Bools = (self._level1[target_rows][:, None] == self._level1[event_rows][None, :]) & known
        theirs = np.where(known[:, None], self._tags[event_rows], -1)
        ours = self._tags[target_rows]
        for tag in theirs.T[(theirs >= 0).any(0)]:
            present = np.where(tag < 0, -2, tag)  # padding must not equal a target's padding, -1
            for own in ours.T[(ours >= 0).any(0)]:
                related |= own[:, None] == present
        return related

    def _assemble(
        self, requests: Requests, targets: Targets, owners: Ints, used: list[Ints], found: Ints, related: Bools
    ) -> Inputs:
        events = requests.events.take(np.concatenate(used))
        asked = np.repeat(requests.time_ms[owners], [len(u) for u in used])
        timed = events.time_ms > 0
        age = np.where(timed, np.maximum(log_bucket(asked - events.time_ms), 1), 0)
        return Inputs(
            item=self._items.take(targets.row),
            tab=torch.from_numpy(targets.tab),
            request=torch.from_numpy(np.searchsorted(owners, targets.request)),
            user=torch.from_numpy(hashed(requests.user_id[owners], self.shape.user_buckets)),
            static=torch.from_numpy(requests.static[owners]),
            hour=torch.from_numpy(requests.time_ms[owners] // HOUR_MS % 24),
            event_item=self._items.take(self.index.rows(events.item_id)),
            play=torch.from_numpy(log_bucket(events.play_ms)),
            age=torch.from_numpy(age),
            labels=torch.from_numpy(events.labels),
            found=torch.from_numpy(found),
            related=torch.from_numpy(related),
        )


def _item_columns(shape: Shape, index: ItemIndex) -> ItemColumns:
    tags = np.asarray(index.tags)
    count = (tags >= 0).sum(1, keepdims=True)
    columns = (
        hashed(index.item_ids, shape.item_buckets),
        hashed(index.author, shape.author_buckets),
        hashed(tags, shape.tag_buckets),
        np.where(tags >= 0, 1.0 / np.maximum(count, 1), 0.0).astype(np.float32),
        log_bucket(index.duration_ms),
        index.sids[:, 0].astype(np.int64) + 1,
    )
    padding_last = (np.concatenate([c, np.zeros((1, *c.shape[1:]), c.dtype)]) for c in columns)
    return ItemColumns(*(torch.from_numpy(column) for column in padding_last))
