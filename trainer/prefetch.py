"""What a step needs, prepared in a thread while the step before runs.

consumes:     work items, in order
produces:     the same with what was prepared of them, in order
waits for:    the oldest preparation under way
unblocked by: the preparing thread
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
DEPTH = 2
"""Items prepared ahead: one under way, and one that is ready."""


def ahead(items: Iterable[A], prepare: Callable[[A], B], depth: int = DEPTH) -> Iterator[tuple[A, B]]:
    """Every item with what ``prepare`` makes of it, up to ``depth`` items ahead of the reader.

    What ``prepare`` raises is raised when its item's turn comes. A reader that stops early waits for at most ``depth``.
    """
    with ThreadPoolExecutor(1, "prefetch") as preparing:
        under_way: deque[tuple[A, Future[B]]] = deque()
        for item in items:
            under_way.append((item, preparing.submit(prepare, item)))
            if len(under_way) > depth:
                yield _next(under_way)
        while under_way:
            yield _next(under_way)


def _next(under_way: deque[tuple[A, Future[B]]]) -> tuple[A, B]:
    item, future = under_way.popleft()
    return item, future.result()
