"""Which sessions are worth imitating: the better half by total play duration (OneRec technical report, section 3.3).

The threshold is the exact median of the last ``window`` scores, strictly earlier ones only, and everything is counted in
sessions: no clock enters, so a log always gives the same decisions.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from common.settings import FilterSettings


class SessionFilter:
    """Causal streaming median, over the sessions of one rank's partitions.

    Scores above the median are kept and those below are not. Of the scores that equal it, as many are kept as bring the
    kept share of the window to one half, spread evenly by carrying the remainder from one tie to the next. (With distinct
    scores that is hardly ever a decision; with half of the sessions at one score, "greater than" alone would keep none.)
    """

    def __init__(self, settings: FilterSettings) -> None:
        self.settings = settings
        self.seen = 0
        self._recent: deque[int] = deque()
        self._sorted: list[int] = []
        self._carry = 0.0

    def keep(self, score: int) -> bool:
        """Judge one session by those before it, then remember it. The first ``warmup`` sessions seen are all kept."""
        kept = self.seen < self.settings.warmup or not self._sorted or self._beats_median(score)
        self._remember(score)
        return kept

    def prime(self, scores: Iterable[int]) -> None:
        """Remember sessions from before the stream without judging them."""
        for score in scores:
            self._remember(score)

    @property
    def median(self) -> float:
        """The present threshold; 0 before the first score."""
        size = len(self._sorted)
        return (self._sorted[(size - 1) // 2] + self._sorted[size // 2]) / 2 if size else 0.0

    def state(self) -> dict[str, npt.NDArray[np.float64] | npt.NDArray[np.int64]]:
        """Everything that later decisions depend on."""
        return {
            "recent": np.array(self._recent, np.int64),
            "seen": np.array([self.seen], np.int64),
            "carry": np.array([self._carry], np.float64),
        }

    def load_state(self, state: dict[str, npt.NDArray[np.float64] | npt.NDArray[np.int64]]) -> None:
        """Go on from `state`, which may be of a filter with a longer window."""
        self._recent = deque(int(score) for score in state["recent"][-self.settings.window :])
        self._sorted = sorted(self._recent)
        self.seen = int(state["seen"][0])
        self._carry = float(state["carry"][0])

    def _beats_median(self, score: int) -> bool:
        median = self.median
        if score != median:
            return score > median
        below, upto = bisect_left(self._sorted, score), bisect_right(self._sorted, score)
        above, ties = len(self._sorted) - upto, upto - below
        # The middle of an even window may be a score that nobody had: then every second one is kept.
        self._carry += (len(self._sorted) / 2 - above) / ties if ties else 0.5
        if self._carry < 1.0:
            return False
        self._carry -= 1.0
        return True

    def _remember(self, score: int) -> None:
        self._recent.append(score)
        insort(self._sorted, score)
        self.seen += 1
        if len(self._recent) > self.settings.window:
            oldest = self._recent.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
