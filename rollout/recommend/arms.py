"""Which arm of an online experiment a user belongs to. Pure, so that users stay in it, whenever and wherever served."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import xxhash

from common.settings import RecommendArm


class Arms:
    """Splits users by a hash of their ids and of the arms' names: another experiment draws anew, and so do rollout users."""

    def __init__(self, arms: Sequence[RecommendArm]) -> None:
        """In shares of their sum."""
        self.arms = tuple(arms)
        self._names = "/".join(arm.name for arm in arms)
        self._ends = list(accumulate(arm.share for arm in arms))

    def of(self, user_id: int) -> RecommendArm:
        """The user's arm."""
        draw = xxhash.xxh3_64_intdigest(f"arms/{self._names}/{user_id}".encode()) / 2**64
        which = bisect_right(self._ends, draw * self._ends[-1])
        return self.arms[min(which, len(self.arms) - 1)]  # a draw next to 1 is rounded up
