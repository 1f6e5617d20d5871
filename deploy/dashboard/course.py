"""A figure over the time of a run, in bounded memory; and how fast a counter grows."""

from __future__ import annotations

import math
from collections import deque

POINTS = 120
"""Most points of a course."""
FIRST_WIDTH_MS = 1000
RATE_MS = 15_000
"""Rates are of this long, unless it is said otherwise."""

Points = list[tuple[float, float]]
"""(seconds since the course began, mean of a figure around then)."""


class Course:
    """Means of a figure over equal spans of time. When these become too many, each two neighbours become one."""

    def __init__(self) -> None:
        self._first_ms: int | None = None
        self._width_ms = FIRST_WIDTH_MS
        self._spans: dict[int, tuple[float, float]] = {}

    def add(self, time_ms: int, value: float, weight: float = 1.0) -> None:
        """One measurement. What is told late goes to the time that it is of; what is no number is left out."""
        if not math.isfinite(value):
            return
        self._first_ms = time_ms if self._first_ms is None else self._first_ms
        after_ms = max(time_ms - self._first_ms, 0)
        while after_ms // self._width_ms >= POINTS:
            self._widen()
        number = after_ms // self._width_ms
        total, weights = self._spans.get(number, (0.0, 0.0))
        self._spans[number] = total + value * weight, weights + weight

    def points(self) -> Points:
        """In order; spans without a measurement are left out. A time is the middle of its span."""
        middle = self._width_ms / 2
        return [
            ((number * self._width_ms + middle) / 1000, total / weights)
            for number, (total, weights) in sorted(self._spans.items())
            if weights
        ]

    def _widen(self) -> None:
        spans, self._spans, self._width_ms = self._spans, {}, 2 * self._width_ms
        for number, (total, weights) in spans.items():
            held, weight = self._spans.get(number // 2, (0.0, 0.0))
            self._spans[number // 2] = held + total, weight + weights


class Meter:
    """How fast a counter grows, from its readings of the last ``window_ms``."""

    def __init__(self, window_ms: int = RATE_MS) -> None:
        self._window_ms = window_ms
        self._readings: deque[tuple[int, float]] = deque()

    def add(self, time_ms: int, value: float | None) -> None:
        """A reading. None changes nothing; a smaller value than before is that of a process which began anew."""
        if value is None or (self._readings and time_ms <= self._readings[-1][0]):
            return
        if self._readings and value < self._readings[-1][1]:
            self._readings.clear()
        self._readings.append((time_ms, value))
        while len(self._readings) > 2 and self._readings[1][0] <= time_ms - self._window_ms:
            self._readings.popleft()

    def per_second(self, now_ms: int) -> float | None:
        """The rate; 0 where nothing was told for that long, None before there are two readings."""
        if len(self._readings) < 2:
            return None
        (first_ms, first), (last_ms, last) = self._readings[0], self._readings[-1]
        return 0.0 if now_ms - last_ms > self._window_ms else 1000 * (last - first) / (last_ms - first_ms)
