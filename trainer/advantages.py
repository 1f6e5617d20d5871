"""Group-relative advantages: how much better than its group an item is (OneRec technical report, section 2.4.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MIN_STD = 1e-6
MAX_ADVANTAGE = 5.0


def group_advantages(rewards: Sequence[float | None]) -> npt.NDArray[np.float32]:
    """A_i = (r_i - mean) / (population std + 1e-6), clamped to |A| <= 5.

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
