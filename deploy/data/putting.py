"""Puts records on a topic again, each with the position at which it lay first (`common.origin`), and none of them twice.

What the target holds already is known from the target itself, by the origins of its records: a replay that was interrupted,
however it ended, goes on where it was when it is started again.

consumes:     records, and the target topic for what it holds already
produces:     records on the target topic
waits for:    the broker's acknowledgements, and the clock when paced
unblocked by: the timeout
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

from common.log_interval import held_ranges, records_between
from common.messages import Session, decode
from common.origin import Origin, first_origin, headers_with, origin_of
from common.stream import Producer, Record, log_identity, partition_of
from deploy.data.clock import TICK_S, Clock
from deploy.data.place import Place, short_name
from deploy.data.recorded import Source

FLUSH_EVERY = 1000


@dataclass(frozen=True)
class Target:
    """The topic to put records on, and the origins of those that it holds. Make one with `Target.open`."""

    place: Place
    log: str
    topic: str
    partitions: int
    origins: set[Origin] = field(repr=False)

    @staticmethod
    def open(place: Place, topic: str) -> Target:
        """Read a topic's origins.

        Raises:
            StreamError: there is no such topic, or the broker does not answer.
        """
        held = held_ranges(place.kafka, topic, place.timeout_s)
        records = records_between(place.kafka, topic, held, place.timeout_s)
        origins = {origin for record in records if (origin := origin_of(record))}
        return Target(place, log_identity(place.kafka, topic, place.timeout_s), topic, len(held), origins)


@dataclass
class Outcome:
    """What was put (or, in a dry run, would be), by target partition, and what was there already."""

    put: Counter[int] = field(default_factory=Counter)
    there: int = 0


def check_target(source: Source, target: Target) -> str:
    """Whether a topic's records can be put on another one; how partitions are chosen, in words.

    Raises:
        ValueError: it is the same topic, or the numbers differ and the partitions are bound to positions of another topic.
    """
    if source.log == target.log:
        raise ValueError(f"--to-topic must be another topic than the source, got {target.topic}")
    if source.partitions == target.partitions:
        return f"in the partitions they were in ({source.partitions})"
    if short_name(source.topic) != "sessions":
        raise ValueError(
            f"{target.topic} must have {source.partitions} partitions as {source.topic}, got {target.partitions}: "
            "only sessions can be distributed anew"
        )
    return f"distributed anew by user, over {target.partitions} partitions instead of {source.partitions}"


def put(
    source: Source,
    target: Target,
    speed: float = 0.0,
    dry_run: bool = False,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Put what the target does not hold yet, with keys, times and headers as they were. See `check_target`.

    Raises:
        StreamError: the broker did not acknowledge; started again, the replay goes on where it was.
    """
    outcome = Outcome()
    missing = _missing(source, target, outcome)
    if dry_run:
        for _ in missing:
            pass
        return outcome
    clock = Clock(speed)
    with closing(Producer(target.place.kafka, target.place.timeout_s)) as producer:
        for record, origin, partition in missing:
            if (wait_s := clock.ahead_s(record.timestamp_ms)) > TICK_S:
                time.sleep(wait_s)
            headers = headers_with(origin, record.headers)
            producer.send(target.topic, record.value, partition, record.key, record.timestamp_ms, headers)
            if outcome.put.total() % FLUSH_EVERY == 0:
                producer.flush()
                on_progress(f"{outcome.put.total():,} of {source.total:,} records put on {target.topic}")
    return outcome


def _missing(source: Source, target: Target, outcome: Outcome) -> Iterator[tuple[Record, Origin, int]]:
    """What the target does not hold, with its origin and its partition there; everything is counted."""
    for record in source.records:
        origin = first_origin(record, source.log)
        if origin in target.origins:
            outcome.there += 1
            continue
        target.origins.add(origin)
        partition = _partition(record, source, target)
        outcome.put[partition] += 1
        yield record, origin, partition


def _partition(record: Record, source: Source, target: Target) -> int:
    """Its own, or the user's; what holds no valid session goes anywhere, since it becomes a dead letter."""
    if source.partitions == target.partitions:
        return record.partition
    session = decode(Session, record.value)
    return (
        record.partition % target.partitions
        if isinstance(session, str)
        else partition_of(session.user_id, target.partitions)
    )
