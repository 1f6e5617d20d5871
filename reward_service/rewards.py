"""From a model's probabilities to the reward of each item: named terms combined, then dampened for industrial items.

The profile names the terms and their weights (``reward.terms``); a further rule is a class with an ``apply`` like
`IndustrialReward`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from common.item_index import ItemIndex
from common.messages import Terms
from common.metrics import REWARD_INDUSTRIAL_ACTIVE, REWARD_INDUSTRIAL_SHARE
from common.settings import IndustrialSettings, RewardSettings

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
P_SCORE: Final = "p_score"
"""The term that is no tower's."""


class IndustrialReward:
    """Dampens items of certain tags while too much of what is generated is of them (OneRec technical report, 2.4.3).

    r' = alpha r for these items while their share exceeds the limit, r otherwise. The share is an exponential mean over
    requests; the rule ends only when the share is a band below the limit, so that it does not flicker. Safe to call from
    several threads.
    """

    def __init__(self, settings: IndustrialSettings) -> None:
        self.settings = settings
        self.share: float | None = None
        self.active = False
        self._lock = threading.Lock()

    def apply(self, rewards: Floats, industrial: Bools) -> Floats:
        """Rewards (N,) of one request's items, of which some are ``industrial`` (N,); they count before they are judged."""
        rule = self.settings
        with self._lock:
            now = float(industrial.mean())
            self.share = now if self.share is None else rule.decay * self.share + (1 - rule.decay) * now
            limit = rule.share_limit * (1 - rule.band if self.active else 1)
            self.active = self.share > limit
            active = self.active
        REWARD_INDUSTRIAL_SHARE.set(self.share)
        REWARD_INDUSTRIAL_ACTIVE.set(active)
        return np.where(industrial, rule.factor * rewards, rewards) if active else rewards


class Rewards:
    """The profile's reward."""

    def __init__(self, settings: RewardSettings) -> None:
        self.terms = settings.terms
        self.industrial = IndustrialReward(settings.industrial) if settings.industrial.tags else None

    def __call__(
        self,
        probabilities: Mapping[str, npt.ArrayLike],
        index: ItemIndex,
        rows: npt.NDArray[np.int64],
        terms: Terms = {},  # noqa: B006
    ) -> Floats:
        """Rewards (N,), at least 0, of the items at ``rows`` of an index; ``probabilities`` (N,) by term. ``terms`` are
        weights in place of the profile's."""
        weights = terms or self.terms
        whole = sum(weights.values())
        total = np.zeros(len(rows))
        for name, weight in weights.items():
            if weight:
                total += weight / whole * np.asarray(probabilities[name], np.float64)
        if self.industrial is None or not len(rows):
            return total
        of_kind: Bools = np.logical_or.reduce(np.isin(np.asarray(index.tags)[rows], self.industrial.settings.tags), axis=1)
        return self.industrial.apply(total, of_kind)
