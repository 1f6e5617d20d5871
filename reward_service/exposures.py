"""A log's impressions as training data of the preference model, each with the history strictly before its session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.context import Context, UserEvents
from common.item_index import ItemIndex
from common.messages import Impression, Label, Session, User
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
    clicks_recorded: bool

    def __len__(self) -> int:
        return len(self.targets)

    @staticmethod
    def of_sessions(
        sessions: Sequence[Session], contexts: Sequence[Context], index: ItemIndex, shape: Shape, clicks_recorded: bool
    ) -> Exposures:
        """Those of sessions, each with what was known of its user before it."""
        shown = [(k, *_columns(impression)) for k, one in enumerate(sessions) for impression in one.impressions]
        return _exposures(Requests.of_contexts(contexts, shape), np.array(shown, np.int64), index, clicks_recorded)

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
        impressions += [(len(requests), *_columns(impression)) for impression in session.impressions]
        requests.append((session.user_id, session.time_ms, user.length))
        owners.append(user)
        user.append(UserEvents.from_impressions(session.impressions))
    shown = np.array(impressions, np.int64).reshape(-1, 1 + len(_COLUMNS))
    clicks = bool((shown[:, 1 + _COLUMNS.index("labels")] & int(Label.CLICK)).any())
    exposures = _exposures(_requests(owners, np.array(requests, np.int64)), shown, index, clicks)
    if not len(exposures):
        raise ValueError(f"days 0..{last_day} of {log.path} hold no impression of an item in index {index.version}")
    return exposures


_COLUMNS = ("item_id", "tab", "labels", "play_ms", "duration_ms")


def _columns(impression: Impression) -> tuple[int, ...]:
    return tuple(getattr(impression, name) for name in _COLUMNS)


def _exposures(requests: Requests, shown: npt.NDArray[np.int64], index: ItemIndex, clicks_recorded: bool) -> Exposures:
    """Of impressions (N, 6): the request's number, then `_COLUMNS`. Items that the index does not know are left out."""
    request, item, tab, bits, play, duration = shown.reshape(-1, 1 + len(_COLUMNS)).T
    row = index.rows(item)
    known = row >= 0
    labels = make_labels(bits, play, duration, clicks_recorded).take(known)
    targets = Targets(request[known], row[known], tab[known])
    return Exposures(requests, targets, labels, requests.user_id[targets.request], clicks_recorded)


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
