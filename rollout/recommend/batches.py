"""Requests that arrive one by one -> batches for a thread that works on them.

Consumes: what is put. Produces: batches. Waits for: a first request, then for ``wait_s`` for others. Unblocked by: `put`,
`close`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Batches(Generic[T]):
    """A queue whose reader takes up to ``size`` at once. The first of a batch waits at most ``wait_s`` for the others."""

    def __init__(self, size: int, wait_s: float) -> None:
        self.size, self.wait_s = size, wait_s
        self._ready = threading.Condition()
        self._waiting: deque[tuple[T, float]] = deque()
        self._closed = False

    def put(self, one: T) -> None:
        """Add one; never blocks."""
        with self._ready:
            self._waiting.append((one, time.monotonic()))
            self._ready.notify()

    def take(self, timeout_s: float) -> list[T]:
        """The next batch; empty after ``timeout_s`` without any, or when closed and empty."""
        with self._ready:
            self._ready.wait_for(lambda: self._waiting or self._closed, timeout_s)
            if not self._waiting:
                return []
            left = self._waiting[0][1] + self.wait_s - time.monotonic()
            self._ready.wait_for(lambda: len(self._waiting) >= self.size or self._closed, max(left, 0.0))
            return [self._waiting.popleft()[0] for _ in range(min(self.size, len(self._waiting)))]

    def close(self) -> None:
        """Let the reader go; what waits can still be taken."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
