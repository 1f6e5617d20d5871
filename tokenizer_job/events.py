"""What users did with items before training ends, as columns: the raw material of vectors and popularity."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.session_log import SessionLog

Ints = npt.NDArray[np.int64]
HALF_LIFE_DAYS = 1.0
VIEW_WEIGHT = 0.1
"""What an impression that is not positive counts beside a positive one."""


@dataclass(frozen=True)
class TrainingEvents:
    """E events, each user's together and oldest first. Only items of the catalogue are kept."""

    user: Ints  # ascending
    row: Ints  # the item's position in the catalogue
    day: Ints  # -1 for initial histories
    positive: npt.NDArray[np.bool_]

    @staticmethod
    def read(log: SessionLog, item_ids: Ints, train_days: int | None, held_out: int = 0) -> TrainingEvents:
        """Initial histories, then the sessions of days 0..train_days-1 (None: of all days).

        ``held_out`` leaves out each user's last events, this many (benchmarks that test on a user's last events).

        Raises:
            ValueError: ``train_days`` or ``held_out`` is negative.
        """
        if (train_days or 0) < 0 or held_out < 0:
            raise ValueError(f"train_days and held_out must be at least 0, got {train_days} and {held_out}")
        columns = _read_columns(log, train_days)
        columns = columns[:, np.argsort(columns[0], kind="stable")]
        left = np.searchsorted(columns[0], columns[0], "right") - np.arange(columns.shape[1])
        user, item, day, labels = columns[:, left > held_out]
        by_id = np.argsort(item_ids, kind="stable")
        at = np.minimum(np.searchsorted(item_ids[by_id], item), len(item_ids) - 1)
        known = item_ids[by_id][at] == item
        positive = (labels & log.manifest.positive_label) > 0
        return TrainingEvents(user[known], by_id[at][known], day[known], positive[known])

    def popularity(self, items: int) -> npt.NDArray[np.float32]:
        """Recent popularity of each item of the catalogue.

        A positive event counts 1 and any other impression 0.1, halved for every day between it and the newest day;
        initial histories count as the day before the log begins.
        """
        if not len(self.day):
            return np.zeros(items, np.float32)
        weight = np.where(self.positive, 1.0, VIEW_WEIGHT) * 0.5 ** ((self.day.max() - self.day) / HALF_LIFE_DAYS)
        return np.bincount(self.row, weight, items).astype(np.float32)


def _read_columns(log: SessionLog, train_days: int | None) -> Ints:
    """User, item, day and label bits of all events, (4, E): histories first, then sessions in time order."""
    columns: dict[str, list[int]] = defaultdict(list)
    for user in log.users():
        columns["user"] += [user.user_id] * len(user.history.item_id)
        columns["item"] += user.history.item_id
        columns["day"] += [-1] * len(user.history.item_id)
        columns["labels"] += user.history.labels
    last_day = None if train_days is None else train_days - 1
    for session in () if train_days == 0 else log.sessions(0, last_day):
        columns["user"] += [session.user_id] * len(session.impressions)
        columns["item"] += [impression.item_id for impression in session.impressions]
        columns["day"] += [log.day_of(session.time_ms)] * len(session.impressions)
        columns["labels"] += [impression.labels for impression in session.impressions]
    return np.array([columns[name] for name in ("user", "item", "day", "labels")], np.int64)
