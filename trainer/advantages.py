"""What a group's rewards say about its candidates: how much better than the group each is, or which two make a pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

MIN_STD = 1e-6
MAX_ADVANTAGE = 5.0
MIN_DIFFERENCE = 1e-4
"""Between the rewards of a pair."""


def advantages_for(
    objective: Literal["ecpo", "grpo", "gbpo", "dpo"], rewards: Sequence[float | None]
) -> npt.NDArray[np.float32]:
    """What the named objective learns from: `pair_advantages` for DPO, `group_advantages` for the others."""
    return pair_advantages(rewards) if objective == "dpo" else group_advantages(rewards)


def group_advantages(rewards: Sequence[float | None]) -> npt.NDArray[np.float32]:
    """A_i = (r_i - mean) / (population std + 1e-6), clamped to |A| <= 5 (OneRec technical report, section 2.4.1).

    Args:
        rewards: one per candidate; None for an illegal candidate, which has no reward: it enters neither mean nor std
            and has advantage 0.

    Returns:
        (G,) float32; all zeros where there is nothing to prefer: fewer than two legal candidates, or a std below 1e-6.
    """
    legal = np.array([reward is not None for reward in rewards], bool)
    values = np.array([0.0 if reward is None else reward for reward in rewards], np.float64)
    advantages = np.zeros(len(values), np.float32)
    if legal.sum() < 2 or (std := values[legal].std()) < MIN_STD:
        return advantages
    scaled = (values[legal] - values[legal].mean()) / (std + MIN_STD)
    advantages[legal] = np.clip(scaled, -MAX_ADVANTAGE, MAX_ADVANTAGE)
    return advantages


def pair_advantages(rewards: Sequence[float | None]) -> npt.NDArray[np.float32]:
    """The pair of iterative preference alignment: the best candidate and the worst (OneRec first version).

    Args:
        rewards: one per candidate; None for an illegal candidate, which is never of the pair. Of equal ones the first is
            taken, which is the most probable one of a beam.

    Returns:
        (G,) float32: +1 for the winner, -1 for the loser, 0 elsewhere; all zeros where no two legal candidates' rewards
        differ by `MIN_DIFFERENCE`.
    """
    advantages = np.zeros(len(rewards), np.float32)
    legal = [(reward, place) for place, reward in enumerate(rewards) if reward is not None]
    if not legal:
        return advantages
    best, winner = max(legal, key=lambda one: one[0])
    worst, loser = min(legal, key=lambda one: one[0])
    if best - worst >= MIN_DIFFERENCE:
        advantages[[winner, loser]] = 1.0, -1.0
    return advantages
