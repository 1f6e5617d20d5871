"""User context -> the policy's input tensors (OneRec technical report, section 2.2).

Shape legend: R contexts, L positions of a pathway, T tags per position, F static fields, K levels.
Positions run newest first, so that a position embedding means recency rank; a pathway is as long as the batch's longest
context needs, at most the length in the settings. Id 0 is always the padding row.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from common.context import Context, UserEvents
from common.item_index import ItemIndex
from common.leaves import LeafCache
from common.messages import POSITIVE
from common.settings import PolicySettings

BUCKETS = 64
"""Rows of the play, duration and age tables: 0 unknown, then logarithmic buckets."""
LABEL_BITS = 9
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
Array = np.ndarray


@dataclass(frozen=True, slots=True)
class EventFeatures:
    """One pathway's events: ids (R, L) unless noted; ``mask`` is True where an event is present."""

    vid: Tensor
    author: Tensor
    tags: Tensor  # (R, L, T)
    tag_weight: Tensor  # (R, L, T), rows sum to 1, or 0 where no tag is known
    age: Tensor
    hour: Tensor  # 0 unknown, 1..24
    weekday: Tensor  # 0 unknown, 1..7
    play: Tensor
    duration: Tensor
    labels: Tensor  # bitset
    sids: Tensor  # (R, L, K), codes + 1, 0 = unknown item
    leaf_size: Tensor  # float, events that this position stands for
    mask: Tensor

    def to(self, device: torch.device | str) -> EventFeatures:
        """The same features on another device."""
        return EventFeatures(*(getattr(self, f.name).to(device) for f in fields(self)))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled as arrays: torch takes up to a millisecond for each of its tensors."""
        return _events_of, tuple(getattr(self, f.name).numpy() for f in fields(self))


@dataclass(frozen=True, slots=True)
class PolicyInputs:
    """All encoder inputs of R contexts."""

    static: Tensor  # (R, 1 + F): user row, then one row per static field
    short: EventFeatures
    positive: EventFeatures
    lifelong: EventFeatures | None

    def to(self, device: torch.device | str) -> PolicyInputs:
        """The same inputs on another device."""
        lifelong = None if self.lifelong is None else self.lifelong.to(device)
        return PolicyInputs(self.static.to(device), self.short.to(device), self.positive.to(device), lifelong)

    def __reduce__(self) -> tuple[object, ...]:
        """As `EventFeatures`."""
        return _inputs_of, (self.static.numpy(), self.short, self.positive, self.lifelong)


def _events_of(*arrays: Array) -> EventFeatures:
    return EventFeatures(*map(torch.from_numpy, arrays))


def _inputs_of(static: Array, *pathways: EventFeatures) -> PolicyInputs:
    return PolicyInputs(torch.from_numpy(static), *pathways)


def log_bucket(milliseconds: Array) -> Array:
    """0 for unknown (<= 0), else 1..63: 2.5 buckets per doubling of (1 + seconds)."""
    seconds = np.maximum(milliseconds, 0) / 1000.0
    bucket = 1 + np.minimum(np.floor(2.5 * np.log2(1.0 + seconds)), BUCKETS - 2).astype(np.int64)
    return np.where(milliseconds > 0, bucket, 0)


def hashed(ids: Array, buckets: int) -> Array:
    """Rows 1..buckets-1 of a hashed embedding table (row 0 is padding). Ids below ``buckets - 1`` never collide."""
    return np.where(ids >= 0, 1 + ids % (buckets - 1), 0)


def static_row(field: str, value: int, buckets: int) -> int:
    """Row of one profile field's value in the shared static table."""
    return 1 + zlib.crc32(f"{field}={value}".encode()) % (buckets - 1)


class Featurizer:
    """Builds `PolicyInputs` for a policy's settings and one item index snapshot."""

    def __init__(self, policy: PolicySettings, index: ItemIndex) -> None:
        self.policy = policy
        self.index = index
        self._leaves = LeafCache(index, policy.lifelong_length)

    def __call__(self, contexts: list[Context]) -> PolicyInputs:
        """Features of R contexts. Deterministic; looks at nothing outside the contexts and the snapshot."""
        policy = self.policy
        now = np.array([c.time_ms for c in contexts], np.int64)
        short = [c.events.last(policy.short_length) for c in contexts]
        positive = [_positives(c.events, policy.positive_length) for c in contexts]
        lifelong = self._lifelong(contexts) if policy.lifelong_length else None
        return PolicyInputs(
            self._static(contexts),
            self._pathway(short, now),
            self._pathway(positive, now),
            lifelong,
        )

    def _static(self, contexts: list[Context]) -> Tensor:
        policy = self.policy
        rows = np.zeros((len(contexts), 1 + len(policy.static_fields)), np.int64)
        rows[:, 0] = hashed(np.array([c.user_id for c in contexts], np.int64), policy.user_buckets)
        for r, context in enumerate(contexts):
            for f, field in enumerate(policy.static_fields):
                if field in context.profile:
                    rows[r, 1 + f] = static_row(field, context.profile[field], policy.static_buckets)
        return torch.from_numpy(rows)

    def _pathway(self, parts: list[UserEvents], now: Array) -> EventFeatures:
        events = UserEvents.concatenate(parts)
        lengths = np.array([len(p) for p in parts])
        where = _slots(lengths, int(lengths.max(initial=0)))
        known = self.index.rows(events.item_id)
        request_time = np.repeat(now, lengths)
        tags = self.index.tags[np.maximum(known, 0)]
        tags = np.where((known >= 0)[:, None], tags, -1)
        count = (tags >= 0).sum(1, keepdims=True)
        weight = np.where(tags >= 0, 1.0 / np.maximum(count, 1), 0.0).astype(np.float32)
        times = self._times(events.time_ms, request_time)
        flat = (
            self._item_columns(events.item_id, known)
            | times
            | {
                "tags": hashed(tags, self.policy.tag_buckets),
                "tag_weight": weight,
                "play": log_bucket(events.play_ms),
                "duration": log_bucket(events.duration_ms),
                "labels": events.labels,
                "leaf_size": np.ones(len(events), np.float32),
            }
        )
        return _scatter(flat, where)

    def _item_columns(self, item_id: Array, known: Array) -> dict[str, Array]:
        safe = np.maximum(known, 0)
        return {
            "vid": hashed(item_id, self.policy.item_buckets),
            "author": np.where(known >= 0, hashed(self.index.author[safe], self.policy.author_buckets), 0),
            "sids": np.where((known >= 0)[:, None], self.index.sids[safe].astype(np.int64) + 1, 0),
        }

    @staticmethod
    def _times(time_ms: Array, request_time: Array) -> dict[str, Array]:
        known = time_ms > 0
        return {
            "age": np.where(known, np.maximum(log_bucket(request_time - time_ms), 1), 0),
            "hour": np.where(known, 1 + time_ms // HOUR_MS % 24, 0),
            "weekday": np.where(known, 1 + time_ms // DAY_MS % 7, 0),
        }

    def _lifelong(self, contexts: list[Context]) -> EventFeatures:
        """Leaves of each user's events before the day of the request, newest leaf first."""
        events, known, sizes = self._before_today(contexts)
        leaves = self._leaves.of(known, events.time_ms, sizes)
        count = np.bincount(leaves.leaf_of, minlength=len(leaves.representative))
        mean = {
            name: _known_mean(leaves.leaf_of, getattr(events, name), len(count))
            for name in ("time_ms", "play_ms", "duration_ms")
        }
        request_time = np.repeat([context.time_ms for context in contexts], leaves.sizes)
        chosen = leaves.representative
        flat = (
            self._item_columns(events.item_id[chosen], known[chosen])
            | self._times(mean["time_ms"].astype(np.int64), request_time)
            | {
                "tags": hashed(leaves.tags, self.policy.tag_buckets),
                "tag_weight": leaves.tag_weight,
                "play": log_bucket(mean["play_ms"]),
                "duration": log_bucket(mean["duration_ms"]),
                "labels": events.labels[chosen],
                "leaf_size": count.astype(np.float32),
            }
        )
        return _scatter(flat, _slots(leaves.sizes, self.policy.lifelong_length))

    def _before_today(self, contexts: list[Context]) -> tuple[UserEvents, Array, Array]:
        """All users' events before the day of their request with an item that is known, its row, and how many a user has."""
        begins = [c.time_ms // DAY_MS * DAY_MS for c in contexts]
        lengths = [len(c.events) for c in contexts]
        events = UserEvents.concatenate([c.events for c in contexts])
        known = self.index.rows(events.item_id)
        wanted = (known >= 0) & (events.time_ms < np.repeat(begins, lengths))
        sizes = np.bincount(np.repeat(np.arange(len(contexts)), lengths)[wanted], minlength=len(contexts))
        return events.take(np.flatnonzero(wanted)), known[wanted], sizes


def _known_mean(group: Array, values: Array, groups: int) -> Array:
    """Each group's mean of the values that are known (0 is not): 0 where none is."""
    known = np.bincount(group, values > 0, groups)
    return np.asarray(np.bincount(group, values, groups) / np.maximum(known, 1))


def _positives(events: UserEvents, length: int) -> UserEvents:
    return events.take(np.flatnonzero(events.labels & int(POSITIVE))[-length:])


def _slots(lengths: Array, limit: int) -> Array:
    """(R, L) indices into the concatenated events, newest first; -1 where there is none; 1 <= L = longest <= ``limit``."""
    ends = np.cumsum(lengths)
    size = max(1, min(int(lengths.max(initial=0)), limit))
    index = ends[:, None] - 1 - np.arange(size)[None, :]
    return np.where(index >= (ends - lengths)[:, None], index, -1)


def _scatter(flat: dict[str, Array], where: Array) -> EventFeatures:
    mask = where >= 0
    columns: dict[str, Tensor] = {"mask": torch.from_numpy(mask)}
    for name, values in flat.items():
        padded = np.concatenate([values, np.zeros((1, *values.shape[1:]), values.dtype)])
        columns[name] = torch.from_numpy(padded[where])  # -1 reads the appended zero row
    return EventFeatures(**columns)
