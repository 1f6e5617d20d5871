"""A user's context at one request: profile, request time and past events as numpy columns.

`Context` is what the policy and the preference model read; `common.messages.UserContext` is its form on the wire.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import xxhash

from common.messages import Events, Impression, UserContext

DAY_MS = 86_400_000
IntArray = np.ndarray[tuple[int], np.dtype[np.int64]]
_COLUMNS = ("item_id", "time_ms", "play_ms", "duration_ms", "labels")


@dataclass(frozen=True, slots=True)
class UserEvents:
    """Past events, oldest first: int64 columns of one length D. 0 in a time or duration column means unknown."""

    item_id: IntArray
    time_ms: IntArray
    play_ms: IntArray
    duration_ms: IntArray
    labels: IntArray

    def __len__(self) -> int:
        return len(self.item_id)

    @staticmethod
    def empty() -> UserEvents:
        """No events."""
        return UserEvents(*(np.empty(0, np.int64) for _ in _COLUMNS))

    @staticmethod
    def from_message(events: Events) -> UserEvents:
        """From the wire form."""
        return UserEvents(*(np.asarray(getattr(events, name), np.int64) for name in _COLUMNS))

    @staticmethod
    def from_impressions(impressions: list[Impression]) -> UserEvents:
        """The events that a session adds to its user's history."""
        rows = [(i.item_id, i.time_ms, i.play_ms, i.duration_ms, i.labels) for i in impressions]
        return UserEvents(*np.asarray(rows, np.int64).reshape(-1, len(_COLUMNS)).T.copy())

    @staticmethod
    def concatenate(parts: list[UserEvents]) -> UserEvents:
        """Parts in order, oldest first."""
        if not parts:
            return UserEvents.empty()
        return UserEvents(*(np.concatenate([getattr(p, name) for p in parts]) for name in _COLUMNS))

    def take(self, where: slice | IntArray) -> UserEvents:
        """The events at a slice or at positions."""
        return UserEvents(*(getattr(self, name)[where] for name in _COLUMNS))

    def last(self, limit: int) -> UserEvents:
        """The newest ``limit`` events."""
        return self if len(self) <= limit else self.take(slice(len(self) - limit, None))

    def to_message(self) -> Events:
        """The wire form."""
        return Events(**{name: getattr(self, name).tolist() for name in _COLUMNS})

    def to_bytes(self) -> bytes:
        """Compact storage form; `from_bytes` reads it."""
        return np.stack([getattr(self, name) for name in _COLUMNS]).astype("<i8").tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> UserEvents:
        """Inverse of `to_bytes`."""
        return UserEvents(*np.frombuffer(data, "<i8").astype(np.int64).reshape(len(_COLUMNS), -1))


@dataclass(frozen=True, slots=True)
class Context:
    """What is known of a user when a request arrives (strictly earlier events only)."""

    user_id: int
    time_ms: int
    tab: int = 0
    profile: dict[str, int] = field(default_factory=dict)
    events: UserEvents = field(default_factory=UserEvents.empty)

    @staticmethod
    def from_message(message: UserContext) -> Context:
        """From the wire form."""
        return Context(
            message.user_id, message.time_ms, message.tab, dict(message.profile), UserEvents.from_message(message.events)
        )

    def to_message(self) -> UserContext:
        """The wire form."""
        return UserContext(
            user_id=self.user_id, time_ms=self.time_ms, tab=self.tab, profile=self.profile, events=self.events.to_message()
        )

    def digest(self) -> str:
        """Fingerprint of everything in the context; two contexts with one digest give the same model inputs."""
        head = json.dumps([self.user_id, self.time_ms, self.tab, sorted(self.profile.items())])
        return xxhash.xxh3_128_hexdigest(head.encode() + b"\0" + self.events.to_bytes())
