"""The streaming trainer: online fine-tuning on the better sessions, joined by reinforcement learning on rollout groups.

consumes:     sessions and rollout-groups (Kafka)
produces:     rollout-requests and dead-letters (Kafka), checkpoints (disk), parameter versions (message queue)
waits for:    enough sessions for a batch; at the end of a finite log, the groups still under way
unblocked by: new records, the end of the log as told in replay.json, the drain bound, the stop event
"""

from __future__ import annotations

import json
import time
from threading import Event

from common.messages import RolloutRequest
from common.stream import Producer, Record, dead_letter, dead_letter_key
from trainer.batches import Batch, BatchBuilder, RequestDraft
from trainer.checkpoint import commit, policy_blob
from trainer.groups import GIVEN_UP, TRAINED, GroupJudge, Judgement
from trainer.journal import Journal, JournalEntry, SettledGroup
from trainer.parity import Snapshots
from trainer.publishing import BackgroundPublisher
from trainer.record_buffer import ranges_between
from trainer.resume import GROUPS, SESSIONS, OpenRun
from trainer.rl_users import request_id
from trainer.statistics import Statistics

POLL_S = 0.1
GROUPS_AHEAD = 8
"""Groups read ahead, in units of those that one step may train."""


class Trainer:
    """Carries one run from its checkpoint to the end of the log, or to the stop event."""

    def __init__(
        self, opened: OpenRun, journal: Journal, producer: Producer, publisher: BackgroundPublisher, statistics: Statistics
    ) -> None:
        self.settings, self.run_state, self.history = opened.settings, opened.run, opened.history
        self.opened, self.journal, self.producer = opened, journal, producer
        self.publisher, self.statistics = publisher, statistics
        self.checkpoints = opened.folder / "checkpoints"
        run = opened.run
        self.batches = BatchBuilder(opened.settings, opened.index, opened.history, run.session_filter)
        self.snapshots = Snapshots(run.training.featurizer, lambda version: policy_blob(self.checkpoints, version))
        self.judge = GroupJudge(
            opened.settings,
            run.identity.run,
            opened.topic(SESSIONS),
            opened.index,
            opened.history,
            run.frontier,
            run.staleness,
            self.snapshots,
        )
        self.requested_s: dict[tuple[int, int], float] = {}

    def run(self, stop: Event) -> None:
        """Execute what the journal recorded behind the checkpoint, then go live until the end or ``stop``."""
        self.publish()
        self.publisher.wait(self.settings.redis.timeout_s * 3)
        for entry in self.journal.after(self.run_state.step):
            if stop.is_set():
                break
            self.repeat(entry)
        while records := self.consume(stop):
            self.step(records, self.judge_groups())
        self.drain(stop)
        self.checkpoint()
        self.publish()
        self.publisher.wait(self.settings.redis.timeout_s * 3)
