"""The streaming trainer: online fine-tuning on the better sessions, joined by reinforcement learning on rollout groups.

With several ranks each runs this loop on its partitions, and all of them step together, stop together and end together.

Before a step runs the next one is prepared, if its sessions are there: its features are made meanwhile. It is on record, and
counts, only once its own turn comes; before a checkpoint nothing is prepared, so that the image knows no later sessions.

consumes:     sessions and rollout-groups (Kafka)
produces:     rollout-requests and dead-letters (Kafka), checkpoints (disk), parameter versions (message queue)
waits for:    enough sessions for a batch, and its preparation; at the end of a finite log, the groups still under way; the
              other ranks
unblocked by: new records, the end of the log as told in replay.json, the drain bound, the stop event, a rank's end
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from functools import partial
from threading import Event

from common.features import Featurizer
from common.history import Position, ranges_between
from common.item_index import ItemIndex
from common.messages import RolloutRequest
from common.metrics import TRAINER_INDEX_VERSION
from common.probes import PULSE
from common.stream import Producer, Record, dead_letter, dead_letter_key
from trainer.batches import RequestDraft
from trainer.checkpoint import CheckpointError, Identity, commit, oldest_index, policy_blob
from trainer.committing import BackgroundCommit, show_checkpoint
from trainer.groups import GIVEN_UP, TRAINED, GroupJudge, Judgement, log_dropped
from trainer.journal import Journal, JournalEntry, JournalError, SettledGroup
from trainer.metrics import waiting_for
from trainer.parity import Snapshots
from trainer.preparation import Cut, Preparation, Prepared
from trainer.publishing import BackgroundPublisher
from trainer.record_buffer import even_cuts
from trainer.resume import SESSIONS, OpenRun
from trainer.rl_users import request_id
from trainer.statistics import Statistics

POLL_S = 0.1
GROUPS_AHEAD = 8
"""Groups read ahead, in units of those that one step may train."""
PATIENCE = 3
"""A request is given up after this many times what all attempts of the fleet may take."""
LOOKS = 10
"""Looks at the groups topic that this patience lasts for, at least: none are made while no session comes."""
PUBLISH_TIMEOUTS = 4
"""How long to wait for a publication that must be out, in units of the queue's timeout."""
NOTHING = -1
log = logging.getLogger(__name__)


class Trainer:
    """Carries one run from its checkpoint to the end of the log, or to the stop event. Only rank 0 has a publisher."""

    def __init__(
        self,
        opened: OpenRun,
        journal: Journal,
        producer: Producer,
        publisher: BackgroundPublisher | None,
        statistics: Statistics,
    ) -> None:
        self.opened, self.settings, self.state, self.ranks = opened, opened.settings, opened.run, opened.ranks
        self.sessions, self.groups, self.history = opened.sessions, opened.groups, opened.history
        self.indexes = opened.indexes
        self.journal, self.producer, self.publisher, self.statistics = journal, producer, publisher, statistics
        self.checkpoints = opened.folder / "checkpoints"
        self.preparation = Preparation(opened)
        self.snapshots = Snapshots(lambda version: policy_blob(self.checkpoints, version))
        self.judge = GroupJudge(opened, self.snapshots)
        self.commits = BackgroundCommit()
        self.committing = NOTHING
        """The step whose checkpoint is under way."""
        self.looked_s = time.monotonic()
        self.waited_s: dict[Position, float] = {}
        """For the groups of outstanding requests, since they were first looked for."""

    def run(self, stop: Event, on_live: Callable[[], None]) -> None:
        """Execute again what the journal recorded behind the checkpoint, then go live until the end or ``stop``."""
        self.preparation.start()
        self._tell_start()
        self.publish(wait=True)
        self.use_index(self.featurizer())
        for entry in self.recorded():
            PULSE.beat()
            (stopped,) = self.ranks.told(stop.is_set())
            if any(stopped):
                break
            self.repeat(entry)
        on_live()
        self.follow(stop)
        self.drain(stop)
        self.checkpoint(wait=True)
        self.publish(wait=True)

    def follow(self, stop: Event) -> None:
        """Train on the sessions as they come. What is prepared is trained, even after ``stop``: the filter has seen it."""
        prepared = self.prepare(self.consume(stop))
        while prepared:
            PULSE.beat()
            started = time.perf_counter()
            judgements = self.judge_groups()
            entry = self.record(prepared, judgements)
            following = self.prepare(self.cut_ahead(entry.step, stop))
            self.execute(entry, prepared, judgements, started)
            prepared = following or self.prepare(self.consume(stop))

    def recorded(self) -> list[JournalEntry]:
        """The steps behind the checkpoint. One that a rank has not on record was executed by none, and is dropped.

        Raises:
            JournalError: a rank's journal ends before the checkpoint, and another's does not.
        """
        (last,) = self.ranks.told(self.journal.last())
        if min(last) < max(last) and min(last) < self.state.step:
            raise JournalError(f"the ranks' journals end at steps {last}, the checkpoint is of step {self.state.step}")
        if min(last) < last[self.ranks.rank]:
            self.journal.drop_after(min(last))
        return self.journal.after(self.state.step)

    @waiting_for("sessions")
    def consume(self, stop: Event) -> Cut | None:
        """The next batch, cut by count; what is left at the end of the log; None after that or on ``stop``.

        Raises:
            LeaseLostError: another publisher took over: it may wait for long until the next step looks.
        """
        while True:
            PULSE.beat()
            if self.publisher:
                self.publisher.check()
            self.conclude_commit()
            cut, is_over = self.cut(stop)
            if cut or is_over:
                return cut
            self.read_ahead(POLL_S)

    def read_ahead(self, wait_s: float) -> None:
        """Have records of a few steps at hand; wait for up to ``wait_s`` if none come."""
        few = 4 * self.settings.trainer.batch_sessions
        if len(self.sessions) < few:
            self.sessions.fill(few, wait_s)

    def cut(self, stop: Event) -> tuple[Cut | None, bool]:
        """The next batch, if all ranks together have enough for it now, and whether none is to come. A collective."""
        wanted = self.settings.trainer.batch_sessions
        ended = self.log_has_ended()
        ready = ended or len(self.sessions) >= self.ranks.part(wanted) or self.sessions.is_dry()
        held, are_ready, have_ended, stopped = self.ranks.told(len(self.sessions), ready, ended, stop.is_set())
        if any(stopped) or (all(have_ended) and not any(held)):
            return None, True
        if not all(have_ended) and not (all(are_ready) and sum(held) >= wanted):
            return None, False
        before = dict(self.sessions.positions)
        records = self.sessions.cut(even_cuts(held, wanted)[self.ranks.rank])
        return Cut(records, ranges_between(before, self.sessions.positions)), False

    def cut_ahead(self, step: int, stop: Event) -> Cut | None:
        """The sessions of the step behind ``step``, if they are there and no checkpoint comes before it."""
        if step % self.settings.sync.every == 0:
            return None
        self.read_ahead(0.0)
        cut, _ = self.cut(stop)
        return cut

    def prepare(self, cut: Cut | None) -> Prepared | None:
        """Prepare the step of these sessions, if there are any; before it a newer item index is taken up. A collective."""
        return self.preparation.ahead(cut, self.adopt_index()) if cut else None

    def log_has_ended(self) -> bool:
        """Whether the replayer has told the log's end and everything before it has been read, of this rank's partitions."""
        path = self.opened.folder / "replay.json"
        if not path.exists():
            return False
        told = json.loads(path.read_bytes())
        ends = {int(p): int(last) for p, last in told["ends"].items() if self.ranks.owns(int(p))}
        return told["run"] == self.state.identity.run and self.sessions.read_past(ends)

    def adopt_index(self) -> Featurizer:
        """Take up a newer item index for the sessions to come, if rank 0 has found one. A collective."""
        if self.ranks.leads:
            self.indexes.adopt()
        (versions,) = self.ranks.told(self.indexes.current.version)
        self.indexes.go_to(versions[0])
        return self.featurizer()

    def featurizer(self) -> Featurizer:
        """Of the newest item index taken up."""
        featurizer = self.indexes.featurizer(self.indexes.current.version)
        assert featurizer is not None
        return featurizer

    def use_index(self, featurizer: Featurizer) -> None:
        """Train by an index from now on."""
        version = featurizer.index.version
        self.state.counters["indexes.adopted"] += (
            self.ranks.leads and version != self.state.training.featurizer.index.version
        )
        self.state.training.featurizer = featurizer
        TRAINER_INDEX_VERSION.set(version)

    def judge_groups(self, wait_s: float = 0.0) -> list[Judgement]:
        """What came back from the fleet: groups to train as far as a step has room, and all that is dropped before."""
        limit = self.ranks.part(self.settings.rl.groups_per_step)
        if len(self.groups) < limit:
            self.groups.fill(GROUPS_AHEAD * limit, wait_s)
        judgements: list[Judgement] = []
        taken: set[Position] = set()
        trained = 0
        while trained < limit and (records := self.groups.cut(1)):
            judgement = self.judge.judge(records[0], taken)
            if judgement.settled.request:
                taken.add(judgement.settled.request)
            trained += judgement.settled.outcome == TRAINED
            judgements.append(judgement)
        return judgements + self._given_up(taken)

    def record(self, prepared: Prepared, judgements: list[Judgement]) -> JournalEntry:
        """Put a new step on record, before it is executed."""
        if self.publisher:
            self.publisher.check()
        for judgement in judgements:
            log_dropped(judgement, self.state.frontier)
        entry = JournalEntry(
            step=self.state.step + 1,
            ranges=prepared.ranges,
            groups=[judgement.settled for judgement in judgements],
            index_version=prepared.featurizer.index.version,
        )
        self.journal.append(entry)
        return entry

    def repeat(self, entry: JournalEntry) -> None:
        """One step, exactly as the journal recorded it."""
        started, timeout_s = time.perf_counter(), self.settings.stream.timeout_s
        self.indexes.go_to(entry.index_version)
        judgements = []
        for settled in entry.groups:
            if settled.record is None:
                judgements.append(Judgement(settled))
                continue
            partition, offset = settled.record
            piece = {partition: (self.groups.positions[partition], offset + 1)}
            judgements.append(self.judge.recall(settled, self.groups.take(piece, timeout_s)[-1]))
        cut = Cut(self.sessions.take(entry.ranges, timeout_s), entry.ranges)
        self.execute(entry, self.preparation.now(cut, self.featurizer()), judgements, started)

    def execute(self, entry: JournalEntry, prepared: Prepared, judgements: list[Judgement], started: float) -> None:
        """Step, request rollouts; checkpoint and publish when it is time."""
        batch = prepared.batch
        self.use_index(prepared.featurizer)
        groups = [judgement.sample for judgement in judgements if judgement.sample]
        metrics = self.state.training.run(batch.samples, groups, entry.step, batch.feedback, prepared.inputs())
        self.state.advance(entry, batch)
        self.request_rollouts(batch.requests, prepared.featurizer.index)
        self.reject(batch.rejected + [judgement.refused for judgement in judgements if judgement.refused])
        self.conclude_commit()
        if entry.step % self.settings.sync.every == 0:
            self.checkpoint()
        self.statistics.step(self.state, metrics, judgements, time.perf_counter() - started, self.sessions.lag())

    def request_rollouts(self, drafts: list[RequestDraft], index: ItemIndex) -> None:
        """Ask the fleet for groups, as far as `rl.max_outstanding` allows; the others are counted."""
        topic, limit = self.opened.topic("rollout-requests"), self.ranks.part(self.settings.rl.max_outstanding)
        for draft in drafts:
            if len(self.state.frontier.outstanding) >= limit:
                self.state.counters["requests.skipped"] += 1
                continue
            self.state.frontier.request(draft.position, draft.asked)
            self.state.counters["requests.sent"] += 1
            request = to_request(draft, self.state.identity, index, self.opened.topic(SESSIONS))
            self.producer.send(topic, request.to_bytes(), draft.position[0], request.request_id.encode())

    def reject(self, rejected: list[tuple[Record, str]]) -> None:
        """Keep what did not validate."""
        for record, reason in rejected:
            log.warning("%s[%d] offset %d becomes a dead letter: %s", record.topic, record.partition, record.offset, reason)
            letter = dead_letter(record, reason).to_bytes()
            self.producer.send(self.opened.topic("dead-letters"), letter, 0, dead_letter_key(record))

    def checkpoint(self, wait: bool = False) -> None:
        """Begin to make the present state the truth, once everything it implies is out and on disk, on every rank.

        The step waits for the copy of the state alone; rank 0 writes it beside the next steps.

        Raises:
            CheckpointError: with ``wait``, the disk did not take it.
        """
        with waiting_for("checkpoint"):
            self.conclude_commit(wait=True)
        self.producer.flush()
        step, staleness = self.state.step, self.state.staleness
        if staleness.newest != step:
            self.state.frontier.compact(self.state.sessions)
            image = self.state.image(self.indexes.versions)
            if self.ranks.leads:
                self.commits.begin(step, partial(commit, self.checkpoints, image, retain=staleness.admitted()))
            self.committing = step
            self.conclude_commit(wait=wait)
        if wait and staleness.newest != step:
            raise CheckpointError(f"the steps behind checkpoint {staleness.newest} could not be written to disk")

    def conclude_commit(self, wait: bool = False) -> None:
        """Take up what became of the checkpoint under way, if any, on all ranks: once it is committed it is published.

        Where the disk did not take it the checkpoint before stays the truth, and the next one is tried.
        """
        if self.committing == NOTHING:
            return
        taken = self.commits.done(wait=wait) if self.ranks.leads else None
        ended, is_committed = (said[0] for said in self.ranks.told(taken is not None, bool(taken)))
        if not ended:
            return
        step, self.committing = self.committing, NOTHING
        if is_committed:
            self.state.staleness.publish(step)
            self.snapshots.keep(self.state.staleness.admitted())
            if self.ranks.leads:
                self.indexes.pin(oldest_index(self.checkpoints) or self.indexes.versions[0])
            self.publish()

    def publish(self, wait: bool = False) -> None:
        """Have the parameters published that rollout is to have; ``wait`` until they are out."""
        if self.publisher:
            self.publisher.announce(self.state.staleness.published)
            if wait:
                self.publisher.wait(PUBLISH_TIMEOUTS * self.settings.redis.timeout_s)

    def drain(self, stop: Event) -> None:
        """At the end of the log, train the groups that are still under way, in steps without sessions.

        After ``stop`` on any rank none of them makes a step: there may be recorded ones that come first.
        """
        deadline = time.monotonic() + self.settings.trainer.drain_s
        while True:
            PULSE.beat()
            self.conclude_commit()
            waits = bool(self.state.frontier.outstanding) and time.monotonic() < deadline
            waiting, stopped = self.ranks.told(waits, stop.is_set())
            if any(stopped) or not any(waiting):
                return
            judgements = self.judge_groups(POLL_S) if waits else []
            (found,) = self.ranks.told(bool(judgements))
            if any(found):
                started, nothing = time.perf_counter(), self.preparation.now(Cut([], {}), self.featurizer())
                self.execute(self.record(nothing, judgements), nothing, judgements, started)

    def close(self) -> None:
        """Let what runs beside the steps end."""
        self.preparation.close()
        self.commits.close()

    def _tell_start(self) -> None:
        step = self.state.step
        if self.ranks.leads:
            show_checkpoint(self.checkpoints / f"{step:08d}")
        log.info("at checkpoint %d; the journal ends at step %d", step, self.journal.last(), extra={"step": step})

    def _given_up(self, taken: set[Position]) -> list[Judgement]:
        """Requests whose group has not come for so long that the fleet must have lost them: their places are freed.

        ``taken`` are those whose group is here. While groups are left to be judged nobody knows whose have not come.
        """
        now, rollout = time.monotonic(), self.settings.rollout
        patience_s = PATIENCE * rollout.attempts * rollout.timeout_s
        passed_s, self.looked_s = min(now - self.looked_s, patience_s / LOOKS), now
        waited_s, self.waited_s = self.waited_s, {}
        for position in self.state.frontier.outstanding:
            self.waited_s[position] = waited_s[position] + passed_s if position in waited_s else 0.0
        if len(self.groups) or not self.groups.is_dry():
            return []
        late = [position for position, waited in sorted(self.waited_s.items()) if waited > patience_s]
        lost = [position for position in late if position not in taken]
        return [Judgement(SettledGroup(record=None, request=position, outcome=GIVEN_UP)) for position in lost]


def to_request(draft: RequestDraft, identity: Identity, index: ItemIndex, sessions_topic: str) -> RolloutRequest:
    """The message that asks for one group."""
    partition, offset = draft.position
    return RolloutRequest(
        request_id=request_id(identity.run, sessions_topic, partition, offset),
        run=identity.run,
        topic=sessions_topic,
        partition=partition,
        offset=offset,
        context=draft.context.to_message(),
        digest=draft.context.digest(),
        tokenizer_version=index.tokenizer_version,
        index_version=index.version,
        requested_ms=time.time_ns() // 1_000_000,
    )
