"""Records of the sessions topic -> what a step trains on: sessions in, samples, rollout requests and dead letters out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from common.context import Context, UserEvents
from common.history import HistoryStore, Position, Ranges, context_events
from common.item_index import ItemIndex
from common.messages import Label
from common.session_log import SessionLog
from common.sessions import PlacedSession, absorb
from common.settings import Settings
from common.stream import Record
from trainer.duration_reward import PlayTimes, duration_bucket, play_ranks
from trainer.frontier import Asked
from trainer.pretraining import target_codes
from trainer.rl_users import DAY_MS, is_rl_user
from trainer.session_filter import SessionFilter
from trainer.step import FeedbackSample, SftSample


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
    feedback: list[FeedbackSample] = field(default_factory=list)
    requests: list[RequestDraft] = field(default_factory=list)
    rejected: list[tuple[Record, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    filter_median_ms: float = 0.0
    """The filter's threshold after these sessions."""


def context_for(history: HistoryStore, asked: Asked, position: Position, limit: int) -> Context:
    """The user's context as of a position: the one way it is built, for samples, requests and returning groups alike."""
    partition, offset = position
    events = history.as_of(asked.user_id, partition, offset, limit)
    return Context(asked.user_id, asked.time_ms, asked.tab, history.profile(asked.user_id), events)


def asked(placed: PlacedSession) -> Asked:
    """Whom and when a session is about; the surface is that of its first impression."""
    session = placed.session
    return Asked(user_id=session.user_id, time_ms=session.time_ms, tab=session.impressions[0].tab)


def warm_scores(log: SessionLog, warm_days: int) -> list[int]:
    """The warm window's session scores, in time order: they prime the filter's median."""
    return [session.play_ms for session in log.sessions(0, warm_days - 1)] if warm_days else []


def warm_plays(log: SessionLog, warm_days: int, play_times: PlayTimes, duration_base: float) -> None:
    """Remember the warm window's plays, in time order: with what a user's first plays in the stream are compared."""
    for session in log.sessions(0, warm_days - 1) if warm_days else ():
        events = UserEvents.from_impressions(session.impressions)
        play_times.remember(events.play_ms, duration_bucket(events.duration_ms, duration_base))


class BatchBuilder:
    """Turns records into a `Batch`, in an order that depends on the records alone: event time, partition, offset."""

    def __init__(
        self,
        settings: Settings,
        index: ItemIndex,
        history: HistoryStore,
        session_filter: SessionFilter,
        play_times: PlayTimes,
    ) -> None:
        self.settings, self.index, self.history = settings, index, history
        self.session_filter, self.play_times = session_filter, play_times
        self.limit = context_events(settings.policy)

    def build(self, records: list[Record], ranges: Ranges) -> Batch:
        """Absorb the records, filter their sessions, and make samples and requests of those that are kept.

        What users did with what they were shown is heeded of all sessions, if at all (``rl.lambda_feedback``).
        """
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
            items = np.array([impression.item_id for impression in one.session.impressions], np.int64)
            batch.counts["impressions.unknown"] += int((self.index.rows(items) < 0).sum())
            if self.session_filter.keep(one.session.play_ms):
                self._train_on(one, batch)
            if self.settings.rl.lambda_feedback:
                self._heed(one, batch)
        batch.filter_median_ms = self.session_filter.median
        return batch

    def _heed(self, placed: PlacedSession, batch: Batch) -> None:
        impressions = placed.session.impressions
        events = UserEvents.from_impressions(impressions)
        base, fewest = self.settings.rl.duration_base, self.settings.rl.fewest_plays
        bucket = duration_bucket(events.duration_ms, base)
        rows = self.index.rows(events.item_id)
        known = rows >= 0
        if known.any():
            context = context_for(self.history, asked(placed), placed.position, self.limit)
            past = context.events
            ranks = play_ranks(events.play_ms, bucket, past.play_ms, duration_bucket(past.duration_ms, base), fewest)
            ranks = np.where(np.isnan(ranks), self.play_times.ranks(events.play_ms, bucket, fewest), ranks)
            old = np.full((len(events), self.index.levels), np.nan, np.float32)
            for k, impression in enumerate(impressions):
                if len(impression.generated) == self.index.levels:
                    old[k] = impression.generated
            disliked = (events.labels & int(Label.DISLIKE)) > 0
            codes = self.index.sids[rows[known]].astype(np.int64)
            batch.feedback.append(FeedbackSample(context, codes, old[known], ranks[known], disliked[known]))
        self.play_times.remember(events.play_ms, bucket)

    def _train_on(self, placed: PlacedSession, batch: Batch) -> None:
        session, whom = placed.session, asked(placed)
        trainer, rl = self.settings.trainer, self.settings.rl
        events = UserEvents.from_impressions(session.impressions)
        codes = target_codes(events, self.index, trainer.targets, trainer.max_targets)
        wanted = is_rl_user(session.user_id, session.time_ms // DAY_MS, rl.rate, self.settings.seed)
        batch.counts["sessions.kept"] += 1
        batch.counts["targets"] += len(codes)
        if not len(codes) and not wanted:
            return
        context = context_for(self.history, whom, placed.position, self.limit)
        if len(codes):
            batch.samples.append(SftSample(context, codes))
        if wanted:
            batch.requests.append(RequestDraft(placed.position, whom, context))
