"""The rollout fleet: hands requests to actors and sees to it that every request is answered.

An answer whose acknowledgement was lost is sent again, and may then lie in the topic twice; the trainer takes the first.

Consumes:      rollout-requests, all partitions, from the positions in fleet.json
Produces:      rollout-groups (one group per request, with candidates or with the reason why not), dead-letters
Waits for:     new requests, actors, acknowledgements of the broker; each wait is bounded
Unblocked by:  the trainer's requests, its first parameter version (an actor is not ready without one), SIGTERM
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from common import metrics
from common.durable import drop_torn_line
from common.endpoints import Endpoints
from common.messages import RolloutRequest, decode
from common.parameter_channel import REFUSALS
from common.probes import PULSE
from common.process_log import user_tag
from common.settings import load_settings
from common.stream import (
    TOPICS,
    LogReader,
    Producer,
    Record,
    StreamError,
    check_topics,
    dead_letter,
    dead_letter_key,
    topic_name,
)
from rollout.actor import Answer
from rollout.groups import Origin, failed_group, sampler_of
from rollout.ledger import Ledger
from rollout.pool import START_S, ActorPool, Outcome
from rollout.ray_node import ray_node
from rollout.run_folder import write_json

REMEMBERED = 65_536
"""Request ids kept to skip repetitions."""
DELIVERY_ATTEMPTS = 3
log = logging.getLogger(__name__)


class FleetError(RuntimeError):
    """The fleet cannot go on; one line that says why."""


@dataclass(slots=True)
class Work:
    """A request, the record it came in, and how often it was tried."""

    record: Record
    request: RolloutRequest
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to produce; ``settles`` is the request record that is answered once this one is acknowledged."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    settles: Record


class Outbox:
    """Answers on their way out. A request counts as settled, and the ledger moves, only once they are acknowledged."""

    def __init__(self, producer: Producer, ledger: Ledger) -> None:
        self._producer = producer
        self._ledger = ledger
        self._pending: list[Outgoing] = []
        self._failures = 0

    def add(self, outgoing: Outgoing) -> None:
        """Queue a record."""
        self._pending.append(outgoing)

    def deliver(self) -> None:
        """Produce all that is queued and wait for its acknowledgement; after a failure it stays queued for the next call.

        Raises:
            StreamError: the broker failed several times in a row.
        """
        if not self._pending:
            return
        try:
            for outgoing in self._pending:
                self._producer.send(outgoing.topic, outgoing.value, outgoing.partition, outgoing.key)
            self._producer.flush()
        except StreamError as error:
            self._failures += 1
            log.warning("%d answers are not delivered yet: %s", len(self._pending), error)
            if self._failures >= DELIVERY_ATTEMPTS:
                raise
            return
        self._failures = 0
        for outgoing in self._pending:
            self._ledger.frontiers[outgoing.settles.partition].settle(outgoing.settles.offset)
        self._pending.clear()
        self._ledger.save()


class Fleet:
    """The supervisor's state: queue, actors, ledger and outbox. `run` is its loop."""

    def __init__(self, folder: Path, pool: ActorPool[Work], metrics_url: str) -> None:
        self.folder = folder
        self.settings = load_settings(folder / "settings.json")
        self.endpoints = Endpoints.read(folder)
        self.pool = pool
        self.metrics_url = metrics_url
        stream, kafka, prefix = self.settings.stream, self.endpoints.kafka, self.endpoints.prefix
        self._groups, self._dead = topic_name(prefix, "rollout-groups"), topic_name(prefix, "dead-letters")
        requests = topic_name(prefix, "rollout-requests")
        self.ledger = Ledger(folder / "fleet.json", self.endpoints.run, TOPICS["rollout-requests"].count(stream.partitions))
        self.reader = LogReader(kafka, requests, self.ledger.positions, stream.timeout_s)
        self.producer = Producer(kafka, stream.timeout_s)
        self.outbox = Outbox(self.producer, self.ledger)
        self._queue: deque[Work] = deque()
        self._bound = 2 * self.settings.rollout.batch * self.settings.rollout.actors
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._announced = False
        self._statistics = folder / "rollout_stats.jsonl"
        self._statistics.touch()
        drop_torn_line(self._statistics)
        for reason in REFUSALS:
            metrics.ROLLOUT_REFUSED_VERSIONS.labels(reason)  # shown as 0, so that the first one is a rise

    def run(self, stopping: Callable[[], bool]) -> None:
        """Serve until ``stopping``, then finish what is in flight.

        Raises:
            FleetError: the actors did not get ready in time.
            StreamError: the stream failed for longer than its timeout, or no longer holds our position.
        """
        ready_by = time.monotonic() + START_S
        while not stopping():
            PULSE.beat()
            self._announce(ready_by)
            PULSE.able = self._announced and self.pool.idle + self.pool.busy > 0
            self._pull()
            self._hand_out()
            self._show()
            self._take(0.05 if self.pool.busy else 0.0)
            self.outbox.deliver()
        self._drain()

    def close(self) -> None:
        """Close the connections to the stream."""
        self.reader.close()
        self.producer.close()

    def _announce(self, ready_by: float) -> None:
        """Write the ready file once every actor has held a parameter version."""
        if self._announced:
            return
        versions = self.pool.versions
        if min(versions.values()) >= 0:
            body = {"pid": os.getpid(), "run": self.endpoints.run, "metrics": self.metrics_url, "versions": versions}
            write_json(self.folder / "ready" / "rollout.json", body)
            self._announced = True
            log.info("ready with %d actors at versions %s", len(versions), sorted(set(versions.values())))
        elif time.monotonic() > ready_by:
            raise FleetError(
                f"the rollout actors did not get ready within {START_S:g} s; {self.pool.last_error or versions}"
            )

    def _pull(self) -> None:
        room = self._bound - len(self._queue)
        if room <= 0:
            return
        for record in self.reader.poll(room, 0.02 if self.pool.busy or self._queue else 0.1):
            self.ledger.frontiers[record.partition].begin(record.offset)
            self._accept(record)
        metrics.ROLLOUT_REQUEST_LAG.set(sum(self.reader.lag().values()))

    def _accept(self, record: Record) -> None:
        """Queue a valid new request; a repeated one is settled at once, a refused one by its dead letter."""
        request = decode(RolloutRequest, record.value)
        if isinstance(request, RolloutRequest) and request.run != self.endpoints.run:
            request = f"run: expected {self.endpoints.run!r}, got {request.run!r}"
        if isinstance(request, str):
            self._bury(record, request)
        elif request.request_id in self._seen:
            metrics.ROLLOUT_REQUESTS_DUPLICATE.inc()
            self.ledger.frontiers[record.partition].settle(record.offset)
        else:
            self._seen[request.request_id] = None
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
            self._queue.append(Work(record, request))

    def _hand_out(self) -> None:
        for _ in range(self.pool.idle):
            if not self._queue:
                return
            batch = self._next_batch()
            self.pool.hand(batch, [work.request for work in batch])

    def _show(self) -> None:
        idle, busy = self.pool.idle, self.pool.busy
        for state, count in (("idle", idle), ("busy", busy), ("starting", len(self.pool.versions) - idle - busy)):
            metrics.ROLLOUT_ACTORS.labels(state).set(count)
        metrics.ROLLOUT_QUEUED.set(len(self._queue))

    def _next_batch(self) -> list[Work]:
        """The next requests; one that was lost before travels alone, so that it can only take itself down."""
        batch = [self._queue.popleft()]
        while (
            self._queue and len(batch) < self.settings.rollout.batch and not (batch[0].attempts or self._queue[0].attempts)
        ):
            batch.append(self._queue.popleft())
        return batch

    def _take(self, wait_s: float) -> None:
        """Collect ended batches: answers go out, lost requests go back to the queue or are retired."""
        for outcome in self.pool.collect(wait_s):
            if outcome.answer is None:
                for work in reversed(outcome.batch):
                    self._try_again(work, outcome.reason)
                continue
            for work, group in zip(outcome.batch, outcome.answer.groups, strict=True):
                self._answer(work, group)
            self._write_statistics(outcome)

    def _try_again(self, work: Work, reason: str) -> None:
        work.attempts += 1
        if work.attempts < self.settings.rollout.attempts:
            metrics.ROLLOUT_REQUESTS_RETRIED.inc()
            self._queue.appendleft(work)
            return
        metrics.ROLLOUT_GROUPS_PRODUCED.labels("failure").inc()
        reason = f"gave up after {work.attempts} attempts: {reason}"
        known = {"user": user_tag(work.request.context.user_id)}
        log.warning("request %s: %s", work.request.request_id, reason, extra=known)
        origin = Origin("fleet", max(0, *self.pool.versions.values()), sampler_of(self.settings.rl))
        group = failed_group(work.request, origin, reason)
        self._answer(work, group.to_bytes())
        self._bury(work.record, reason)

    def _answer(self, work: Work, group: bytes) -> None:
        """Send a group to the partition of its request, which is that of its session: whoever asked reads it there."""
        key = work.request.request_id.encode()
        self.outbox.add(Outgoing(self._groups, work.record.partition, key, group, work.record))

    def _bury(self, record: Record, reason: str) -> None:
        metrics.ROLLOUT_DEAD_LETTERS.inc()
        log.warning("%s[%d] offset %d becomes a dead letter: %s", record.topic, record.partition, record.offset, reason)
        letter = dead_letter(record, reason)
        self.outbox.add(Outgoing(self._dead, 0, dead_letter_key(record), letter.to_bytes(), record))

    def _write_statistics(self, outcome: Outcome[Work]) -> None:
        """Append the batch to the statistics file and the metrics."""
        answer = outcome.answer
        assert answer is not None
        _measure(outcome.actor, answer)
        line = {
            "time_ms": time.time_ns() // 1_000_000,
            "actor": outcome.actor,
            "version": answer.parameter_version,
            "requests": len(outcome.batch),
            "failures": answer.failures,
            "generate_ms": round(answer.generate_ms, 3),
            "score_ms": round(answer.score_ms, 3),
            "legality": None if math.isnan(answer.legality) else round(answer.legality, 6),
        }
        with self._statistics.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _drain(self) -> None:
        """Let batches in flight end within a bound; queued requests are read again at the next start."""
        deadline = time.monotonic() + self.settings.rollout.timeout_s
        while self.pool.busy and time.monotonic() < deadline:
            self._take(0.2)
            self.outbox.deliver()
        self.outbox.deliver()
        self.ledger.save()


def _measure(actor: str, answer: Answer) -> None:
    """The batch as metrics."""
    size = len(answer.groups)
    metrics.ROLLOUT_GROUPS_PRODUCED.labels("failure").inc(answer.failures)
    metrics.ROLLOUT_GROUPS_PRODUCED.labels("ok").inc(size - answer.failures)
    metrics.ROLLOUT_GENERATE_SECONDS.observe(answer.generate_ms / 1000)
    metrics.ROLLOUT_SCORE_SECONDS.observe(answer.score_ms / 1000 / size)
    metrics.ROLLOUT_PARAMETER_VERSION.labels(actor).set(answer.parameter_version)
    if not math.isnan(answer.legality):
        metrics.ROLLOUT_LEGALITY.set(answer.legality)
    for reason, count in answer.refused.items():
        metrics.ROLLOUT_REFUSED_VERSIONS.labels(reason).inc(count)


def run_fleet(folder: Path, metrics_url: str) -> None:
    """Run the fleet of a run folder until SIGTERM or SIGINT. Raises what `Fleet` raises."""
    settings, endpoints = load_settings(folder / "settings.json"), Endpoints.read(folder)
    check_topics(endpoints.kafka, endpoints.prefix, settings.stream.partitions, settings.stream.timeout_s)
    rollout = settings.rollout
    stop: list[int] = []
    with ray_node(rollout.actors * rollout.actor_cpus, rollout.actors * rollout.actor_gpus):
        for number in (signal.SIGTERM, signal.SIGINT):  # after Ray, which installs its own
            signal.signal(number, lambda caught, _frame: stop.append(caught))
        pool: ActorPool[Work] = ActorPool(
            rollout.actors, rollout.actor_cpus, str(folder.resolve()), rollout.timeout_s, rollout.actor_gpus
        )
        with closing(Fleet(folder, pool, metrics_url)) as fleet:
            fleet.run(lambda: bool(stop))
