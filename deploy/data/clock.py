"""The pace of a replay."""

from __future__ import annotations

import time

TICK_S = 0.1
"""A paced replay waits only when it is ahead by more than this, so that records still travel in batches."""


class Clock:
    """Maps a log's time to this machine's, from the first record on. ``speed`` 0 never waits, 3600 is an hour a second."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.start: tuple[float, int] | None = None

    def ahead_s(self, time_ms: int) -> float:
        """Seconds until a record is due; <= 0 when it is due, or when the replay is not paced."""
        if self.speed == 0:
            return 0.0
        if self.start is None:
            self.start = time.monotonic(), time_ms
        began, first_ms = self.start
        return began + (time_ms - first_ms) / 1000 / self.speed - time.monotonic()
