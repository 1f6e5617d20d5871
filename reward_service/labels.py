"""What an impression teaches each objective: the label matrix that the towers and the P-Score are fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.messages import Label

OBJECTIVES = ("ctr", "lvtr", "vtr", "ltr", "wtr", "cmtr")
"""Click, long view, view, like, follow (wtr) and comment rates: the labels the P-Score is fitted to."""
INTERACTION = "interaction"
"""The pooled objective that lends its hidden layers to the rare ones; no label of the P-Score."""
TOWERS = (*OBJECTIVES, INTERACTION)

VIEW_MS = 7_000
"""A view is the whole item or this long, whichever is shorter."""
LONG_VIEW_MS = 18_000
"""A long view is this long, or the whole of an item that is no longer than this."""
CLICK_PLAY_MS = 3_000
"""Where a log records no clicks, playing this long counts as one."""
POOLED = Label.LIKE | Label.FOLLOW | Label.COMMENT | Label.FORWARD | Label.PROFILE_ENTER

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Labels:
    """``values`` and ``known``: bool (N, len(TOWERS)), columns in the order of `TOWERS`. Unknown values are False."""

    values: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.values)

    def take(self, where: slice | npt.NDArray[Any]) -> Labels:
        """Some impressions' labels."""
        return Labels(self.values[where], self.known[where])


def make_labels(bits: IntArray, play_ms: IntArray, duration_ms: IntArray, clicks_recorded: bool = True) -> Labels:
    """Labels of N impressions from their label bits (`common.messages.Label`), play and item durations.

    A duration of 0 is unknown: view and long view are then missing, because ``play >= min(0, 7 s)`` would call every
    such impression a view.
    """
    timed = duration_ms > 0
    whole = play_ms >= duration_ms
    columns = {
        "ctr": _has(bits, Label.CLICK) if clicks_recorded else play_ms >= CLICK_PLAY_MS,
        "lvtr": timed & (((duration_ms <= LONG_VIEW_MS) & whole) | (play_ms >= LONG_VIEW_MS)),
        "vtr": timed & (play_ms >= np.minimum(duration_ms, VIEW_MS)),
        "ltr": _has(bits, Label.LIKE),
        "wtr": _has(bits, Label.FOLLOW),
        "cmtr": _has(bits, Label.COMMENT),
        INTERACTION: _has(bits, POOLED),
    }
    known = np.ones((len(bits), len(TOWERS)), np.bool_)
    known[:, TOWERS.index("lvtr")] = known[:, TOWERS.index("vtr")] = timed
    return Labels(np.stack([columns[tower] for tower in TOWERS], axis=1), known)


def _has(bits: IntArray, label: Label) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (bits & int(label)) != 0
    return found
