"""A log's impressions as training data of the preference model, each with the history strictly before its session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.context import UserEvents
from common.item_index import ItemIndex
from common.messages import Label, User
from common.session_log import SessionLog
from reward_service.inputs import Requests, Shape, Targets
from reward_service.labels import Labels, make_labels


@dataclass(frozen=True, slots=True)
class Exposures:
    """One request per session and one target per impression of a known item, in log order. ``user`` is per target."""

    requests: Requests
    targets: Targets
    labels: Labels
    user: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, size: int, first: int, end: int) -> list[slice]:
        """Runs of whole sessions between targets ``first`` and ``end``, each of at least ``size`` targets but the last."""
        starts = np.flatnonzero(np.diff(self.targets.request, prepend=-1))
        cuts = [first]
        for start in starts[(starts > first) & (starts < end)]:
            if start - cuts[-1] >= size:
                cuts.append(int(start))
        return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], end], strict=True) if a < b]

    def split(self, share: float) -> int:
        """The target at which the last ``share`` of the impressions begins, moved to a session's start."""
        wanted = int(len(self) * (1 - share))
        return int(np.searchsorted(self.targets.request, self.targets.request[wanted]))


@dataclass(slots=True)
class _Timeline:
    """One user's events so far; a session's request sees the first ``length`` of them."""

    static: list[int]
    parts: list[UserEvents] = field(default_factory=list)
    length: int = 0

    def append(self, events: UserEvents) -> None:
        self.parts.append(events)
        self.length += len(events)


def read_exposures(
    log: SessionLog, index: ItemIndex, shape: Shape, last_day: int, of_user: Callable[[int], bool] = lambda _: True
) -> Exposures:
    """Exposures of days 0..last_day, of all users or of some. Later sessions leave no trace in earlier requests.

    Raises:
        ValueError: these days hold no impression of an item that the index knows.
    """
    users = {user.user_id: _timeline(user, shape) for user in log.users()}
    owners: list[_Timeline] = []
    requests: list[tuple[int, int, int]] = []
    impressions: list[tuple[int, ...]] = []
    for session in log.sessions(0, last_day):
        if not of_user(session.user_id):
            continue
        user = users.setdefault(session.user_id, _Timeline([0] * len(shape.static_fields)))
        impressions += [(len(requests), i.item_id, i.tab, i.labels, i.play_ms, i.duration_ms) for i in session.impressions]
        requests.append((session.user_id, session.time_ms, user.length))
        owners.append(user)
        user.append(UserEvents.from_impressions(session.impressions))
    request, item, tab, bits, play, duration = np.array(impressions, np.int64).reshape(-1, 6).T
    row = index.rows(item)
    known = row >= 0
    if not known.any():
        raise ValueError(f"days 0..{last_day} of {log.path} hold no impression of an item in index {index.version}")
    labels = make_labels(bits, play, duration, clicks_recorded=bool((bits & int(Label.CLICK)).any()))
    table = _requests(owners, np.array(requests, np.int64))
    targets = Targets(request[known], row[known], tab[known])
    return Exposures(table, targets, labels.take(known), table.user_id[targets.request])


def _timeline(user: User, shape: Shape) -> _Timeline:
    timeline = _Timeline(shape.static_rows(user.profile))
    timeline.append(UserEvents.from_message(user.history))
    return timeline


def _requests(owners: list[_Timeline], rows: npt.NDArray[np.int64]) -> Requests:
    user_id, time_ms, length = rows.T.copy()
    begin_of: dict[int, int] = {}
    parts: list[UserEvents] = []
    size = 0
    for owner in owners:
        if id(owner) not in begin_of:
            begin_of[id(owner)] = size
            parts += owner.parts
            size += owner.length
    begin = np.array([begin_of[id(owner)] for owner in owners], np.int64)
    static = np.array([owner.static for owner in owners], np.int64).reshape(len(owners), -1)
    return Requests(user_id, time_ms, static, begin, begin + length, UserEvents.concatenate(parts))
