"""An interval of a topic's log: what the log holds, where a time begins, and the records between two positions.

The broker is asked where a time begins, and its answer is checked against the records there; where it is wrong (the
embedded broker always answers offset 0) the partition is scanned.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from common.history import Ranges
from common.kafka_client import StreamError, admin_client, client_settings, named, partition_counts, to_ms
from common.stream import LogReader, Record

POLL_RECORDS = 1000
POLL_S = 0.2


def partition_count(bootstrap: str, topic: str, timeout_s: float) -> int:
    """How many partitions a topic has.

    Raises:
        StreamError: the topic does not exist, or the broker does not answer.
    """
    with admin_client(bootstrap, timeout_s) as admin:
        count = partition_counts(admin).get(topic)
    if count is None:
        raise StreamError(f"Kafka at {bootstrap}: topic {topic} does not exist")
    return count


def beginnings(bootstrap: str, topic: str, timeout_s: float) -> dict[int, int]:
    """Partition -> first offset that a topic still has.

    Raises:
        StreamError: as `partition_count`.
    """
    count = partition_count(bootstrap, topic, timeout_s)
    sources = [TopicPartition(topic, partition) for partition in range(count)]
    with _asking(bootstrap, timeout_s) as client:
        told = client.beginning_offsets(sources, timeout_ms=to_ms(timeout_s))
    return {source.partition: int(told[source]) for source in sources}


def held_ranges(bootstrap: str, topic: str, timeout_s: float) -> Ranges:
    """Partition -> [first offset, last + 1) of what a topic holds now.

    Raises:
        StreamError: as `partition_count`.
    """
    begins = beginnings(bootstrap, topic, timeout_s)
    with closing(LogReader(bootstrap, topic, begins, timeout_s)) as reader:
        lag = reader.lag()
    return {partition: (begin, begin + lag[partition]) for partition, begin in begins.items()}


def offsets_at(bootstrap: str, topic: str, held: Ranges, time_ms: int, timeout_s: float) -> dict[int, int]:
    """Partition -> offset of the first record that is not older than ``time_ms``; the log's end where there is none.

    Raises:
        StreamError: the broker does not answer.
    """
    found = _told_by_broker(bootstrap, topic, held, time_ms, timeout_s)
    around = {p: (max(at - 1, held[p][0]), min(at + 1, held[p][1])) for p, at in found.items()}
    wrong = dict.fromkeys(found, False)
    for record in records_between(bootstrap, topic, around, timeout_s):
        wrong[record.partition] |= (record.timestamp_ms >= time_ms) != (record.offset >= found[record.partition])
    scanned = {p: held[p] for p, is_wrong in wrong.items() if is_wrong}
    return found | _scan(bootstrap, topic, scanned, time_ms, timeout_s)


def records_between(bootstrap: str, topic: str, ranges: Ranges, timeout_s: float) -> Iterator[Record]:
    """The records of these ranges: a partition's in their order, of all partitions always the oldest next one.

    Memory is bounded by how far one partition's records run ahead of another's in time.

    Raises:
        StreamError: the log does not hold the ranges, or does not give them within ``timeout_s``.
    """
    wanted = {partition: (first, end) for partition, (first, end) in ranges.items() if first < end}
    if not wanted:
        return
    with closing(LogReader(bootstrap, topic, {p: first for p, (first, _) in wanted.items()}, timeout_s)) as reader:
        waiting: dict[int, deque[Record]] = {partition: deque() for partition in wanted}
        while True:
            _fill(reader, waiting, wanted, timeout_s)
            heads = [records[0] for records in waiting.values() if records]
            if not heads:
                return
            first = min(heads, key=lambda record: (record.timestamp_ms, record.partition))
            yield waiting[first.partition].popleft()


def _fill(reader: LogReader, waiting: dict[int, deque[Record]], ranges: Ranges, timeout_s: float) -> None:
    """Read until every partition's next record is known, or its range is at its end."""
    deadline = time.monotonic() + timeout_s
    while unknown := [p for p, (_, end) in ranges.items() if not waiting[p] and reader.positions[p] < end]:
        records = reader.poll(POLL_RECORDS, POLL_S)
        for record in records:
            if record.offset < ranges[record.partition][1]:
                waiting[record.partition].append(record)
        if records:
            deadline = time.monotonic() + timeout_s
        elif time.monotonic() > deadline:
            p = unknown[0]
            raise StreamError(
                f"partition {p} was to be read up to {ranges[p][1]}, but nothing follows {reader.positions[p]}"
            )


def _told_by_broker(bootstrap: str, topic: str, held: Ranges, time_ms: int, timeout_s: float) -> dict[int, int]:
    sources = {partition: TopicPartition(topic, partition) for partition in held}
    with _asking(bootstrap, timeout_s) as client:
        told = client.offsets_for_times(dict.fromkeys(sources.values(), time_ms), timeout_ms=to_ms(timeout_s))
    answers = {partition: told.get(source) for partition, source in sources.items()}
    return {
        partition: end if answers[partition] is None else min(max(answers[partition].offset, first), end)
        for partition, (first, end) in held.items()
    }


def _scan(bootstrap: str, topic: str, ranges: Ranges, time_ms: int, timeout_s: float) -> dict[int, int]:
    found = {partition: end for partition, (_, end) in ranges.items()}
    for partition, (first, end) in ranges.items():
        for record in records_between(bootstrap, topic, {partition: (first, end)}, timeout_s):
            if record.timestamp_ms >= time_ms:
                found[partition] = record.offset
                break
    return found


@contextmanager
def _asking(bootstrap: str, timeout_s: float) -> Iterator[Any]:
    """A client that consumes nothing: for questions about a log."""
    settings = {"group_id": None, "enable_auto_commit": False, "allow_auto_create_topics": False}
    with named(bootstrap), closing(KafkaConsumer(**client_settings(bootstrap, timeout_s), **settings)) as client:
        yield client
