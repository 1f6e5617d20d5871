"""User context -> the policy's input tensors (OneRec technical report, section 2.2).

Shape legend: R contexts, L positions of a pathway, T tags per position, F static fields, K levels.
Positions run newest first, so that a position embedding means recency rank; a pathway is as long as the batch's longest
context needs, at most the length in the settings. Id 0 is always the padding row.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from common.context import Context, UserEvents
from common.item_index import ItemIndex
from common.lifelong import compress
from common.messages import POSITIVE
from common.settings import PolicySettings

BUCKETS = 64
"""Rows of the play, duration and age tables: 0 unknown, then logarithmic buckets."""
LABEL_BITS = 9
LEAF_TAGS = 8
CACHED_USERS = 2048
"""Compressed lifelong histories kept: a user's is the same for all requests of a day."""
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
        self._clusters = lru_cache(CACHED_USERS)(self._compress)

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
        where = _slots([len(p) for p in parts])
        known = self.index.rows(events.item_id)
        request_time = np.repeat(now, [len(p) for p in parts])
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
        rows: list[dict[str, Array]] = []
        for context in contexts:
            before_today = context.events.time_ms < context.time_ms // DAY_MS * DAY_MS
            rows.append(self._leaves(context.events.take(np.flatnonzero(before_today)), context.time_ms))
        where = _slots([len(r["vid"]) for r in rows])
        return _scatter({name: np.concatenate([r[name] for r in rows]) for name in rows[0]}, where)

    def _compress(self, rows: bytes, time_ms: bytes) -> tuple[Array, Array, Array, Array]:
        """Leaves of one past: leaf of each event, representative, tags and their weights of each leaf.

        A pure function of its arguments, which change once a day for each user.
        """
        known = np.frombuffer(rows, np.int64)
        times = np.frombuffer(time_ms, np.int64)
        leaf_of, representative = compress(self.index.vectors[known], times, self.policy.lifelong_length)
        return leaf_of, representative, *_leaf_tags(self.index.tags[known], leaf_of, len(representative))

    def _leaves(self, events: UserEvents, now_ms: int) -> dict[str, Array]:
        known = self.index.rows(events.item_id)
        events, known = events.take(np.flatnonzero(known >= 0)), known[known >= 0]
        leaf_of, representative, tags, weight = self._clusters(known.tobytes(), events.time_ms.tobytes())
        count = np.bincount(leaf_of, minlength=len(representative))
        mean = {
            name: np.bincount(leaf_of, getattr(events, name), len(representative)) / np.maximum(count, 1)
            for name in ("time_ms", "play_ms", "duration_ms")
        }
        newest = np.argsort(mean["time_ms"], kind="stable")[-self.policy.lifelong_length :]
        chosen = representative[newest]
        times = self._times(mean["time_ms"].astype(np.int64)[newest], np.full(len(newest), now_ms))
        return (
            self._item_columns(events.item_id[chosen], known[chosen])
            | times
            | {
                "tags": hashed(tags[newest], self.policy.tag_buckets),
                "tag_weight": weight[newest],
                "play": log_bucket(mean["play_ms"][newest]),
                "duration": log_bucket(mean["duration_ms"][newest]),
                "labels": events.labels[chosen],
                "leaf_size": count[newest].astype(np.float32),
            }
        )


def _positives(events: UserEvents, length: int) -> UserEvents:
    return events.take(np.flatnonzero(events.labels & int(POSITIVE))[-length:])


def _slots(lengths: list[int]) -> Array:
    """(R, L) indices into the concatenated events, newest first; -1 where there is none; L = longest, at least 1."""
    ends = np.cumsum(lengths)
    size = max(1, *lengths)
    index = ends[:, None] - 1 - np.arange(size)[None, :]
    return np.where(index >= (ends - lengths)[:, None], index, -1)


def _scatter(flat: dict[str, Array], where: Array) -> EventFeatures:
    mask = where >= 0
    columns: dict[str, Tensor] = {"mask": torch.from_numpy(mask)}
    for name, values in flat.items():
        padded = np.concatenate([values, np.zeros((1, *values.shape[1:]), values.dtype)])
        columns[name] = torch.from_numpy(padded[where])  # -1 reads the appended zero row
    return EventFeatures(**columns)


def _leaf_tags(tags: Array, leaf_of: Array, leaves: int) -> tuple[Array, Array]:
    """The mean over each leaf of its events' tag distributions, kept to its `LEAF_TAGS` heaviest tags."""
    out = np.full((leaves, LEAF_TAGS), -1, np.int64)
    weight = np.zeros((leaves, LEAF_TAGS), np.float32)
    event, column = np.nonzero(tags >= 0)
    share = 1.0 / np.maximum((tags >= 0).sum(1), 1)[event]
    pairs, inverse = np.unique(np.stack([leaf_of[event], tags[event, column]]), axis=1, return_inverse=True)
    mass = np.bincount(inverse.ravel(), share, pairs.shape[1])
    order = np.lexsort((pairs[1], -mass, pairs[0]))
    leaf, tag, mass = pairs[0][order], pairs[1][order], mass[order]
    rank = np.arange(len(leaf)) - np.searchsorted(leaf, leaf)
    kept = rank < LEAF_TAGS
    out[leaf[kept], rank[kept]] = tag[kept]
    weight[leaf[kept], rank[kept]] = mass[kept]
    return out, weight / np.maximum(weight.sum(1, keepdims=True), 1e-9)
