"""What load costs an arm: how many of its lists are degraded, and how much less these are worth than generated ones.

The paper judges degraded traffic by the reward of cached lists beside that of real-time ones (OneRec technical report,
appendix B).
"""

from __future__ import annotations

import numpy as np

from common.metrics import RECOMMEND_DEGRADED_SHARE, RECOMMEND_REWARD_GAP
from rollout.recommend.pools import Ranked

SMOOTHING = 0.01
"""Weight of one list in the means, which are thus of about the last hundred."""


class Degradation:
    """Running means over one arm's lists, kept in its metrics. Of one thread."""

    def __init__(self, arm: str) -> None:
        self._arm = arm
        self.share: float | None = None
        """Of the lists of late, those that were not generated for their request."""
        self._worth: dict[tuple[str, bool], float] = {}

    def observe(self, shown: Ranked | None, *, generated: bool) -> None:
        """One list; None: popular items."""
        self.share = _towards(self.share, 0.0 if generated else 1.0)
        RECOMMEND_DEGRADED_SHARE.labels(arm=self._arm).set(self.share)
        if shown is None or np.isnan(shown.values).all():
            return
        by = "reward" if shown.reward_version else "log_prob"
        self._worth[by, generated] = _towards(self._worth.get((by, generated)), float(np.nanmean(shown.values)))
        gap = self.gap(by)
        if gap is not None:
            RECOMMEND_REWARD_GAP.labels(arm=self._arm, by=by).set(gap)

    def gap(self, by: str) -> float | None:
        """Mean worth of an item in generated lists minus that in cached ones; None before there were both."""
        if (by, True) not in self._worth or (by, False) not in self._worth:
            return None
        return self._worth[by, True] - self._worth[by, False]


def _towards(known: float | None, new: float) -> float:
    return new if known is None else (1 - SMOOTHING) * known + SMOOTHING * new
