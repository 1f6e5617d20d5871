"""Records of the sessions topic -> what a step trains on: sessions in, samples, rollout requests and dead letters out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from common.context import Context, UserEvents
from common.history import INITIAL, HistoryStore, context_events
from common.item_index import ItemIndex
from common.messages import Session, decode
from common.session_log import SessionLog
from common.settings import Settings
from common.stream import Record, partition_of
from trainer.frontier import Asked, Position
from trainer.pretraining import load_user_logs, target_codes
from trainer.record_buffer import Ranges
from trainer.rl_users import DAY_MS, is_rl_user
from trainer.session_filter import SessionFilter
from trainer.step import SftSample


@dataclass(frozen=True, slots=True)
class PlacedSession:
    """A valid session and where it lies."""

    session: Session
    position: Position

    @property
    def asked(self) -> Asked:
        """Whom and when it is about; the surface is that of its first impression."""
        return Asked(user_id=self.session.user_id, time_ms=self.session.time_ms, tab=self.session.impressions[0].tab)


@dataclass(frozen=True, slots=True)
class RequestDraft:
    """A kept session of a user for whom rollouts are wanted."""

    position: Position
    asked: Asked
    context: Context


@dataclass(slots=True)
class Batch:
    """What one step's records came to; ``counts`` by counter name."""

    samples: list[SftSample] = field(default_factory=list)
    requests: list[RequestDraft] = field(default_factory=list)
    rejected: list[tuple[Record, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def context_for(history: HistoryStore, asked: Asked, position: Position, limit: int) -> Context:
    """The user's context as of a position: the one way it is built, for samples, requests and returning groups alike."""
    partition, offset = position
    events = history.as_of(asked.user_id, partition, offset, limit)
    return Context(asked.user_id, asked.time_ms, asked.tab, history.profile(asked.user_id), events)


def load_initial_histories(log: SessionLog, history: HistoryStore, warm_days: int) -> None:
    """Profiles, and everything that is known of users before the stream: initial histories, then the warm window.

    Idempotent; the store is committed once everybody is in.
    """
    for user in load_user_logs(log, warm_days):
        history.set_profile(user.user_id, user.profile)
        history.append(INITIAL, INITIAL, user.user_id, user.events)
    history.commit()


def warm_scores(log: SessionLog, warm_days: int) -> list[int]:
    """The warm window's session scores, in time order: they prime the filter's median."""
    return [session.play_ms for session in log.sessions(0, warm_days - 1)] if warm_days else []


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
            rejected.append((record, f"user {session.user_id} belongs to partition {home}, not {record.partition}"))
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


class BatchBuilder:
    """Turns records into a `Batch`, in an order that depends on the records alone: event time, partition, offset."""

    def __init__(self, settings: Settings, index: ItemIndex, history: HistoryStore, session_filter: SessionFilter) -> None:
        self.settings, self.index, self.history, self.session_filter = settings, index, history, session_filter
        self.limit = context_events(settings.policy)

    def build(self, records: list[Record], ranges: Ranges) -> Batch:
        """Absorb the records, filter their sessions, and make samples and requests of those that are kept."""
        placed, rejected, duplicates = absorb(records, ranges, self.history, self.settings.stream.partitions)
        batch = Batch(rejected=rejected)
        batch.counts.update(
            {
                "sessions.consumed": len(records),
                "sessions.valid": len(placed),
                "sessions.rejected": len(rejected),
                "sessions.duplicates": duplicates,
            }
        )
        for one in sorted(placed, key=lambda p: (p.session.time_ms, p.position)):
            if self.session_filter.keep(one.session.play_ms):
                self._train_on(one, batch)
        return batch

    def _train_on(self, placed: PlacedSession, batch: Batch) -> None:
        session, asked = placed.session, placed.asked
        trainer, rl = self.settings.trainer, self.settings.rl
        events = UserEvents.from_impressions(session.impressions)
        codes = target_codes(events, self.index, trainer.targets, trainer.max_targets)
        wanted = is_rl_user(session.user_id, session.time_ms // DAY_MS, rl.rate, self.settings.seed)
        batch.counts["sessions.kept"] += 1
        batch.counts["impressions.unknown"] += int((self.index.rows(events.item_id) < 0).sum())
        batch.counts["targets"] += len(codes)
        if not len(codes) and not wanted:
            return
        context = context_for(self.history, asked, placed.position, self.limit)
        if len(codes):
            batch.samples.append(SftSample(context, codes))
        if wanted:
            batch.requests.append(RequestDraft(placed.position, asked, context))
