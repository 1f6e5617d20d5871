"""Rollout groups coming back: what may be trained, what is dropped, and why.

Every record of the groups topic gets one outcome. A group that answers an outstanding request settles it, whatever its
outcome; the others settle nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from common.context import Context
from common.history import Position, context_events
from common.item_index import ItemIndex
from common.messages import NO_ITEM, RolloutGroup, decode
from common.process_log import user_tag
from common.stream import Record
from trainer.advantages import advantages_for
from trainer.batches import context_for
from trainer.checkpoint import CheckpointError
from trainer.frontier import Frontier
from trainer.journal import JournalError, SettledGroup
from trainer.parity import MAX_PARITY_ERROR, Snapshots
from trainer.resume import SESSIONS, OpenRun
from trainer.rl_users import request_id
from trainer.step import RlSample

TRAINED = "trained"
GIVEN_UP = "given_up"
OUTCOMES = (
    TRAINED,
    GIVEN_UP,
    "failed",
    "stale",
    "parity",
    "duplicate",
    "invalid",
    "digest_mismatch",
    "unknown_version",
    "index_gone",
    "other_run",
)
"""All that may become of a group."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One settled record: its journal form, its sample if it is to be trained, and what it tells about the loop."""

    settled: SettledGroup
    sample: RlSample | None = None
    group: RolloutGroup | None = None
    parity_error: float | None = None
    refused: tuple[Record, str] | None = None
    """A record that is no valid message, and why."""


class GroupJudge:
    """Judges records of the groups topic against the run's state."""

    def __init__(self, opened: OpenRun, snapshots: Snapshots) -> None:
        self.run, self.history, self.indexes, self.snapshots = opened.run, opened.history, opened.indexes, snapshots
        self.sessions_topic = opened.topic(SESSIONS)
        policy, rl = opened.settings.policy, opened.settings.rl
        self.limit = context_events(policy)
        self.group_size = min(rl.group_size, policy.codes**policy.levels)
        self.objective = rl.objective

    def judge(self, record: Record, taken: set[Position]) -> Judgement:
        """What becomes of a record now; ``taken`` are the requests that earlier records of the same step settle."""
        where = (record.partition, record.offset)
        group = decode(RolloutGroup, record.value)
        if isinstance(group, str):
            return Judgement(SettledGroup(record=where, request=None, outcome="invalid"), refused=(record, group))
        position = (group.partition, group.offset)
        foreign = self._foreign(group, position, taken)
        if foreign:
            settled = SettledGroup(record=where, request=None, request_id=group.request_id, outcome=foreign)
            return Judgement(settled, group=group)
        context = self._context(position)
        outcome, error = self._outcome(group, context)
        settled = SettledGroup(record=where, request=position, request_id=group.request_id, outcome=outcome)
        return Judgement(settled, self._sample(group, context) if outcome == TRAINED else None, group, error)

    def recall(self, settled: SettledGroup, record: Record) -> Judgement:
        """The judgement as the journal recorded it: for executing a step again."""
        group = decode(RolloutGroup, record.value)
        if isinstance(group, str):
            return Judgement(settled, refused=(record, group))
        if settled.outcome != TRAINED or settled.request is None:
            return Judgement(settled, group=group)
        return Judgement(settled, self._sample(group, self._context(settled.request)), group)

    def _sample(self, group: RolloutGroup, context: Context) -> RlSample:
        """A group as a training sample. Without two legal candidates, or without spread, all advantages are 0."""
        featurizer = self.indexes.featurizer(group.index_version)
        if featurizer is None:
            raise JournalError(f"group {group.request_id} was trained with item index {group.index_version}, which is gone")
        legal = np.array(group.item_ids) != NO_ITEM
        return RlSample(context, featurizer, *_arrays(group), advantages_for(self.objective, group.rewards), legal)

    def _context(self, position: Position) -> Context:
        return context_for(self.history, self.run.frontier.outstanding[position], position, self.limit)

    def _foreign(self, group: RolloutGroup, position: Position, taken: set[Position]) -> str:
        """Why a group answers none of the outstanding requests; empty if it answers one."""
        if group.run != self.run.identity.run:
            return "other_run"
        if group.topic != self.sessions_topic or group.request_id != request_id(group.run, group.topic, *position):
            return "invalid"
        if position in taken:
            return "duplicate"
        return {"outstanding": "", "settled": "duplicate", "unknown": "invalid"}[self.run.frontier.standing(position)]

    def _outcome(self, group: RolloutGroup, context: Context) -> tuple[str, float | None]:
        """(outcome, parity error if it was computed) of the first group that answers a request."""
        if group.failure:
            return "failed", None
        if not self.run.staleness.knows(group.parameter_version):
            return "unknown_version", None
        if not self.run.staleness.admits(group.parameter_version):
            return "stale", None
        if group.digest != context.digest():
            return "digest_mismatch", None
        featurizer = self.indexes.featurizer(group.index_version)
        if featurizer is None:
            return "index_gone", None
        if not self._fits_index(group, featurizer.index):
            return "invalid", None
        try:
            error = self.snapshots.parity_error(group.parameter_version, context, featurizer, *_arrays(group))
        except CheckpointError:
            return "unknown_version", None
        return (TRAINED if error <= MAX_PARITY_ERROR else "parity"), error

    def _fits_index(self, group: RolloutGroup, index: ItemIndex) -> bool:
        """A full group of this index's codes, whose legality is the index's."""
        codes = np.array(group.codes, np.int64)
        if group.tokenizer_version != index.tokenizer_version or codes.shape != (self.group_size, index.levels):
            return False
        legal = np.array(group.item_ids) != NO_ITEM
        return bool((codes < index.codes).all() and (index.is_legal(codes) == legal).all())


def group_line(judgement: Judgement, step: int, lag: int, received_ms: int) -> dict[str, object]:
    """A settled group's line in the run's statistics; times in ms."""
    line: dict[str, object] = {"kind": "group", "step": step, **judgement.settled.model_dump()}
    group = judgement.group
    if group is None:
        return line
    return line | {
        "actor": group.actor,
        "version": group.parameter_version,
        "index_version": group.index_version,
        "reward_version": group.reward_version,
        "lag": lag,
        "failure": group.failure,
        "candidates": len(group.codes),
        "legal_share": legal_share(group),
        "mean_reward": mean_reward(group),
        "parity_error": judgement.parity_error,
        "preference": judgement.sample is not None and bool(judgement.sample.advantages.any()),
        "requested_to_produced_ms": group.produced_ms - group.requested_ms,
        "produced_to_trained_ms": received_ms - group.produced_ms,
        "generated_ms": group.generated_ms,
        "scored_ms": group.scored_ms,
    }


def log_dropped(judgement: Judgement, frontier: Frontier) -> None:
    """Say why a group is dropped, if it is; to be called while its request is still outstanding."""
    settled, group = judgement.settled, judgement.group
    if settled.outcome == TRAINED or judgement.refused:  # the latter is told with its dead letter
        return
    asked = frontier.outstanding.get(settled.request) if settled.request else None
    known = {"reason": settled.outcome, "version": group.parameter_version if group else None}
    known |= {"user": user_tag(asked.user_id)} if asked else {}
    failure = f": {group.failure}" if group and group.failure else ""
    whose = settled.request_id or settled.request or settled.record
    log.warning("the group of request %s is dropped, %s%s", whose, settled.outcome, failure, extra=known)


def legal_share(group: RolloutGroup) -> float | None:
    """Share of the candidates that are items; None without candidates."""
    return sum(reward is not None for reward in group.rewards) / len(group.codes) if group.codes else None


def mean_reward(group: RolloutGroup) -> float | None:
    """Mean reward of the legal candidates; None without any."""
    rewards = [reward for reward in group.rewards if reward is not None]
    return float(np.mean(rewards)) if rewards else None


def _arrays(
    group: RolloutGroup,
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return np.array(group.codes, np.int64), np.array(group.log_probs, np.float32)
