"""Looking for something newer beside those who use what there is: in a thread of its own, handed over between two uses.

Waits for: nothing; `taken` and `poll` return at once. Unblocked by: nobody, `close` waits for the look that is under way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Lookout(Generic[T]):
    """At most one look at a time. Safe to call from several threads; what is found is handed to one of them."""

    def __init__(self, name: str) -> None:
        self._looker = ThreadPoolExecutor(1, name)
        self._lock = threading.Lock()
        self._look: Future[T | None] | None = None
        self._looked = time.monotonic()

    def ask(self, look: Callable[[], T | None]) -> Future[T | None]:
        """The look that is under way, or this one."""
        with self._lock:
            self._looked = time.monotonic()
            self._look = self._look or self._looker.submit(look)
            return self._look

    def taken(self) -> T | None:
        """What a look has found, once; None while it is under way and after.

        Raises:
            Exception: what the look raised.
        """
        with self._lock:
            if self._look is None or not self._look.done():
                return None
            done, self._look = self._look, None
        return done.result()

    def poll(self, look: Callable[[], T | None], every_s: float) -> T | None:
        """As `taken`, and look again if the last time is ``every_s`` ago."""
        if time.monotonic() - self._looked >= every_s:
            self.ask(look)
        return self.taken()

    def aside(self, work: Callable[[], object]) -> None:
        """Do something in the looking thread that nobody waits for."""
        self._looker.submit(work)

    def close(self) -> None:
        """Stop looking."""
        self._looker.shutdown(cancel_futures=True)
