"""Records of the sessions topic -> valid sessions, each put into the history store once: how every reader of it begins."""

from __future__ import annotations

from dataclasses import dataclass

from common.context import UserEvents
from common.history import INITIAL, HistoryStore, Position, Ranges
from common.messages import Session, decode
from common.session_log import SessionLog
from common.stream import Record, partition_of
from common.user_log import load_user_logs


@dataclass(frozen=True, slots=True)
class PlacedSession:
    """A valid session and where it lies."""

    session: Session
    position: Position


def load_initial_histories(log: SessionLog, history: HistoryStore, warm_days: int) -> None:
    """Profiles, and everything that is known of users before the stream: initial histories, then the warm window.

    Idempotent; the store is committed once everybody is in.
    """
    for user in load_user_logs(log, warm_days):
        history.set_profile(user.user_id, user.profile)
        history.append(INITIAL, INITIAL, user.user_id, user.events)
    history.commit()


def absorb(
    records: list[Record], ranges: Ranges, history: HistoryStore, partitions: int
) -> tuple[list[PlacedSession], list[tuple[Record, str]], int]:
    """Validate records and put their sessions into the history store, up to the ends of ``ranges``.

    Returns:
        the valid sessions that the log holds for the first time, the rejected records with reasons, and the number of
        duplicates (a session that its user already has at a smaller position).
    """
    placed: list[PlacedSession] = []
    rejected: list[tuple[Record, str]] = []
    duplicates = 0
    for record in sorted(records, key=lambda r: (r.partition, r.offset)):
        session = decode(Session, record.value)
        if isinstance(session, str):
            rejected.append((record, session))
        elif (home := partition_of(session.user_id, partitions)) != record.partition:
            rejected.append((record, f"its user belongs to partition {home}, not {record.partition}"))
        elif history.append(
            record.partition,
            record.offset,
            session.user_id,
            UserEvents.from_impressions(session.impressions),
            session.session_id,
        ):
            placed.append(PlacedSession(session, (record.partition, record.offset)))
        else:
            duplicates += 1
    for partition, (first, end) in ranges.items():
        history.advance(partition, end, first)
    return placed, rejected, duplicates
