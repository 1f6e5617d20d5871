"""Looking numbers up in an ascending table that is larger than the processor's caches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IN_CACHE = 1 << 17
"""Entries of a table small enough (1 MiB) that a plain binary search costs no memory latency."""
BLOCK = 64
"""Entries between two fences: 512 bytes, so that a search leaves the fences for few cache lines of one page."""
Ints = npt.NDArray[np.int64]


class SortedTable:
    """Ascending distinct values with every `BLOCK`-th one, the fences, close together beside them.

    A plain binary search over 10 million values misses the cache a dozen times. Here it runs over the fences, which stay
    cached, and ends within one block; wanted values are searched in ascending order, so that neighbours share cache lines.
    """

    def __init__(self, values: Ints) -> None:
        self._values = values
        self._fences = values[::BLOCK].copy() if len(values) > IN_CACHE else None

    def find(self, wanted: npt.ArrayLike) -> Ints:
        """Position of each wanted value, -1 where it is not there. Any shape."""
        given = np.asarray(wanted, np.int64)
        flat = given.ravel()
        if self._fences is None:
            at = np.searchsorted(self._values, flat).astype(np.int64, copy=False)
            return self._exact(np.minimum(at, len(self._values) - 1), flat).reshape(given.shape)
        order = np.argsort(flat)
        flat = flat[order]
        at = np.empty(len(flat), np.int64)
        at[order] = self._exact(self._search(self._fences, flat), flat)
        return at.reshape(given.shape)

    def _search(self, fences: Ints, wanted: Ints) -> Ints:
        """Position of the last value that is not greater than each wanted one, or 0."""
        at = np.maximum(np.searchsorted(fences, wanted, "right") - 1, 0) * BLOCK
        step = BLOCK // 2
        while step:
            further = np.minimum(at + step, len(self._values) - 1)
            at = np.where(self._values[further] <= wanted, further, at)
            step //= 2
        return at.astype(np.int64, copy=False)

    def _exact(self, at: Ints, wanted: Ints) -> Ints:
        at[self._values[at] != wanted] = -1
        return at
