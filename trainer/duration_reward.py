"""Duration-aware reward of shown items: whether somebody watched long for a video of that length (OneRec-V2, section 4).

Play time alone prefers long videos. Here a play is ranked among the same user's earlier plays of videos of about the same
duration; the best quarter of a batch are positives, disliked ones negatives, and nothing else is learned from.
Shape legend: N impressions of a batch, E earlier events of one user.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

EPS_S = 1e-6
POSITIVE_SHARE = 0.25
"""Of a batch's ranked plays: the top quartile."""
PLAY_TIMES = 1000
"""Everybody's newest plays that are kept for each duration bucket."""
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def duration_bucket(duration_ms: Ints, beta: float) -> Ints:
    """F(d) = floor(log_beta(d + 1e-6)) of durations in seconds, at least 0; -1 where the duration is unknown (0)."""
    seconds = np.maximum(duration_ms, 1) / 1000.0
    bucket = np.maximum(np.floor(np.log(seconds + EPS_S) / np.log(beta)), 0).astype(np.int64)
    return np.where(duration_ms > 0, bucket, -1)


def play_ranks(play_ms: Ints, bucket: Ints, past_play_ms: Ints, past_bucket: Ints, fewest: int) -> Floats:
    """q (N,): the share of earlier plays of the same bucket that were no longer, nan if these are fewer than ``fewest``."""
    same = (bucket[:, None] == past_bucket[None, :]) & (bucket[:, None] >= 0)
    count = same.sum(1)
    no_longer = (same & (past_play_ms[None, :] <= play_ms[:, None])).sum(1)
    return np.where(count >= max(fewest, 1), no_longer / np.maximum(count, 1), np.nan)


def shaped_advantages(ranks: Floats, negative: Bools, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A (N,) of a whole batch: +1 for ranks above its 75th percentile, -1 where ``negative``, else 0; not normalised.

    A nan rank is no positive. Where more than a quarter have rank 1, none would be above the percentile: then as many of
    them as make up a quarter are drawn.
    """
    advantages = np.zeros(len(ranks), np.float32)
    ranked = np.flatnonzero(~np.isnan(ranks))
    if len(ranked):
        cut = np.quantile(ranks[ranked], 1 - POSITIVE_SHARE)
        above = ranked[ranks[ranked] > cut]
        if cut == 1.0:
            best = ranked[ranks[ranked] == 1.0]
            above = rng.choice(best, max(1, round(POSITIVE_SHARE * len(ranked))), replace=False)
        advantages[above] = 1.0
    advantages[negative] = -1.0
    return advantages


class PlayTimes:
    """The newest plays of everybody by duration bucket, for users whose own are too few. Strictly earlier ones only."""

    def __init__(self, window: int) -> None:
        self.window = window
        self._recent: dict[int, deque[int]] = {}

    def ranks(self, play_ms: Ints, bucket: Ints, fewest: int) -> Floats:
        """As `play_ranks`, among everybody's plays."""
        out = np.full(len(play_ms), np.nan)
        for b in np.unique(bucket[bucket >= 0]).tolist():
            here = bucket == b
            past = np.array(self._recent.get(b, ()), np.int64)
            out[here] = play_ranks(play_ms[here], bucket[here], past, np.full(len(past), b), fewest)
        return out

    def remember(self, play_ms: Ints, bucket: Ints) -> None:
        """Add plays, the newest last."""
        for play, b in zip(play_ms.tolist(), bucket.tolist(), strict=True):
            if b >= 0:
                self._recent.setdefault(b, deque(maxlen=self.window)).append(play)

    def state(self) -> dict[str, Ints]:
        """Everything that later ranks depend on."""
        return {
            "bucket": np.array([b for b, plays in self._recent.items() for _ in plays], np.int64),
            "play_ms": np.array([play for plays in self._recent.values() for play in plays], np.int64),
        }

    def load_state(self, state: dict[str, Ints]) -> None:
        """Go on from `state`."""
        self._recent = {}
        self.remember(state["play_ms"], state["bucket"])
