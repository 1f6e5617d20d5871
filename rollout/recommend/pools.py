"""What was generated for a user and not served: served later when there is no time to generate.

In the paper's deployment a request returns k results, and those not shown go to a cache pool of the user, which answers when
traffic is degraded (OneRec technical report, appendix B).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

MOST_SERVED = 1000
"""Served items remembered of a user."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """Generated items of one user, best first."""

    item_ids: npt.NDArray[np.int64]  # (n,)
    log_probs: npt.NDArray[np.float32]  # (n, K), by level
    values: npt.NDArray[np.float32]
    """What each item is worth (n,): its predicted reward if a reward model put them in order (nan: not scored), otherwise
    its log-probability."""
    parameter_version: int | None
    """None: of an arm that keeps its own."""
    index_version: int
    made_s: float
    """On the clock of those who ask."""
    reward_version: str = ""
    """The reward model that put them in order."""

    def __len__(self) -> int:
        return len(self.item_ids)

    def take(self, where: npt.NDArray[np.int64] | slice) -> Ranked:
        """Some of them."""
        return replace(self, item_ids=self.item_ids[where], log_probs=self.log_probs[where], values=self.values[where])

    def without(self, item_ids: npt.ArrayLike) -> Ranked:
        """All but some items."""
        return self.take(np.flatnonzero(~np.isin(self.item_ids, item_ids)))


class Pools:
    """The newest list of each user, at most ``users`` of them (who has not asked for longest goes first), for ``keep_s``.

    What was served is remembered with it, so that nothing is served twice before the history has it. Of one thread.
    """

    def __init__(self, users: int, keep_s: float) -> None:
        self.users, self.keep_s = users, keep_s
        self._lists: OrderedDict[int, tuple[Ranked, npt.NDArray[np.int64]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lists)

    def served(self, user_id: int) -> npt.NDArray[np.int64]:
        """Items served to a user from the lists that are remembered."""
        held = self._lists.get(user_id)
        return np.empty(0, np.int64) if held is None else held[1]

    def left(self, user_id: int) -> npt.NDArray[np.int64]:
        """Items that are left for a user, however old."""
        held = self._lists.get(user_id)
        return np.empty(0, np.int64) if held is None else held[0].item_ids

    def serve(self, user_id: int, made: Ranked, count: int) -> Ranked:
        """The first items of a new list; the others are kept in place of what was left before."""
        shown = made.take(slice(0, count))
        self._keep(user_id, made.take(slice(count, None)), shown)
        while len(self._lists) > self.users:
            self._lists.popitem(last=False)
        return shown

    def take(self, user_id: int, count: int, exclude: npt.ArrayLike, now_s: float) -> Ranked | None:
        """The best ``count`` items left for a user, which are then served; None where they are too few or too old."""
        left, _ = self._lists.get(user_id, (None, None))
        if left is None or now_s - left.made_s > self.keep_s:
            return None
        fit = left.without(exclude)
        if len(fit) < count:
            return None
        shown = fit.take(slice(0, count))
        self._keep(user_id, left.without(shown.item_ids), shown)
        return shown

    def _keep(self, user_id: int, left: Ranked, shown: Ranked) -> None:
        served = np.concatenate((self.served(user_id), shown.item_ids))[-MOST_SERVED:]
        self._lists[user_id] = (left, served)
        self._lists.move_to_end(user_id)
