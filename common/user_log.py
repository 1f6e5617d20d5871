"""Everything a session log tells of one user, in order: initial history, then the sessions of its first days."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.context import UserEvents
from common.session_log import SessionLog


@dataclass(frozen=True, slots=True)
class UserLog:
    """One user's past: ``events`` oldest first, of which the first ``initial`` are initial history.

    ``sessions`` are [first, last) slices of ``events`` that arrived together in the warm window.
    """

    user_id: int
    profile: dict[str, int]
    events: UserEvents
    initial: int
    sessions: list[tuple[int, int, int]]  # first, last, tab


def load_user_logs(log: SessionLog, days: int) -> list[UserLog]:
    """Everybody's initial history followed by their sessions of the log's first ``days`` days."""
    parts: dict[int, list[UserEvents]] = {}
    profiles: dict[int, dict[str, int]] = {}
    tabs: dict[int, list[int]] = {}
    for user in log.users():
        parts[user.user_id] = [UserEvents.from_message(user.history)]
        profiles[user.user_id] = dict(user.profile)
    for session in log.sessions(0, days - 1) if days else ():
        parts.setdefault(session.user_id, [UserEvents.empty()]).append(UserEvents.from_impressions(session.impressions))
        tabs.setdefault(session.user_id, []).append(session.impressions[0].tab)
    logs = []
    for user_id, pieces in parts.items():
        ends = np.cumsum([len(p) for p in pieces]).tolist()
        sessions = list(zip(ends[:-1], ends[1:], tabs.get(user_id, []), strict=True))
        logs.append(UserLog(user_id, profiles.get(user_id, {}), UserEvents.concatenate(pieces), ends[0], sessions))
    return logs
