"""How well scores rank: AUC over all impressions, and GAUC within users."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def auc(scores: Floats, values: npt.NDArray[np.bool_]) -> float | None:
    """Probability that a positive outranks a negative (ties count half); None with one class only."""
    return grouped_auc(scores, values, np.zeros(len(values), np.int64))


def grouped_auc(scores: Floats, values: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64]) -> float | None:
    """Mean of each group's AUC weighted by its impressions, over the groups that have both classes; None without any."""
    if not len(values):
        return None
    order = np.lexsort((scores, groups))
    scores, positive = scores[order], values[order].astype(np.float64)
    _, first, group = np.unique(groups[order], return_index=True, return_inverse=True)
    rank = 1.0 + np.arange(len(order)) - first[group]
    tie = np.cumsum(np.append(True, (np.diff(scores) != 0) | (np.diff(group) != 0))) - 1
    rank = (np.bincount(tie, rank) / np.bincount(tie))[tie]
    size = np.bincount(group).astype(np.float64)
    positives = np.bincount(group, positive)
    pairs = positives * (size - positives)
    wins = np.bincount(group, rank * positive) - positives * (positives + 1) / 2
    both = pairs > 0
    if not both.any():
        return None
    return float(np.average(wins[both] / pairs[both], weights=size[both]))


def reliability(scores: Floats, values: npt.NDArray[np.bool_], bins: int) -> list[tuple[float, float, int]]:
    """(mean prediction, rate of positives, count) of as many bins of equal size, lowest predictions first; none without
    values. Calibrated predictions have the first two equal."""
    if not len(values):
        return []
    order = np.argsort(scores, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [(float(scores[part].mean()), float(values[part].mean()), len(part)) for part in parts]
