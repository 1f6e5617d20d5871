"""Kafka, as the workers see it: the topics, a producer that knows what was acknowledged, a reader of explicit positions.

There are no consumer groups here. Positions belong to the checkpoint, a reader is told where to start, and a position
that the log does not have is an error: it never falls back to the earliest or the latest record.
"""

from __future__ import annotations

import base64
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import xxhash
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError
from kafka.partitioner.default import murmur2

from common.kafka_client import StreamError as StreamError
from common.kafka_client import admin_client, await_connection, client_settings, named, partition_counts, to_ms
from common.messages import DeadLetter

MAX_BYTES = 8 * 2**20
"""Largest value of a record."""
REQUEST_BYTES = MAX_BYTES + 2**16
"""Largest request: a value with its key, headers and batch overhead."""
HEAD_BYTES = 2**16
"""A dead letter keeps this much of the message."""
MAX_UNFLUSHED = 10_000
"""`Producer.send` flushes by itself after this many records, which bounds its memory."""
FETCH_WAIT_MS = 20
"""The embedded broker polls instead of waking on data, so this is the latency of a quiet topic."""
DAY_MS = 86_400_000


@dataclass(frozen=True)
class TopicSpec:
    """A topic: ``partitions`` None means as many as the settings say; a record holds at most ``max_bytes``."""

    name: str
    partitions: int | None
    retention_ms: int
    """How long a record stays after its own time."""
    max_bytes: int = MAX_BYTES
    replayed: bool = False
    """Whether records of a log that is replayed come here with their own times, which are long past."""

    def count(self, partitions: int) -> int:
        """Its number of partitions where the settings say ``partitions``."""
        return self.partitions or partitions


TOPICS = {
    spec.name: spec
    for spec in (
        TopicSpec("sessions", None, 7 * DAY_MS, replayed=True),
        TopicSpec("items", 1, 30 * DAY_MS, replayed=True),
        TopicSpec("rollout-requests", None, DAY_MS, replayed=True),
        TopicSpec("rollout-groups", None, 7 * DAY_MS, replayed=True),
        TopicSpec("dead-letters", 1, 30 * DAY_MS),
    )
}
"""Every topic there is, by name without the prefix."""


@dataclass(frozen=True)
class Record:
    """One record as it lies in the log."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def topic_name(prefix: str, name: str) -> str:
    """Full name of one of `TOPICS`."""
    if name not in TOPICS:
        raise ValueError(f"topic must be one of {', '.join(TOPICS)}, got {name!r}")
    return f"{prefix}.{name}"


def partition_of(user_id: int, partitions: int) -> int:
    """The user's partition: murmur2 of the decimal id, made positive, modulo; as Kafka's default for a string key."""
    hashed: int = murmur2(str(user_id).encode())
    return (hashed & 0x7FFFFFFF) % partitions


def dead_letter(record: Record, reason: str) -> DeadLetter:
    """The dead letter of a record that did not validate: position, one-line reason, and its first 64 KiB."""
    value = record.value or b""
    return DeadLetter(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        reason=" ".join(reason.split())[:500],
        length=len(value),
        xxh128=xxhash.xxh3_128_hexdigest(value),
        head_base64=base64.b64encode(value[:HEAD_BYTES]).decode(),
    )


def dead_letter_key(record: Record) -> bytes:
    """Key of a record's dead letter, the same at every reading: ``topic/partition/offset``."""
    return f"{record.topic}/{record.partition}/{record.offset}".encode()


def wait_for_broker(bootstrap: str, timeout_s: float) -> None:
    """Wait until a broker answers a metadata call; StreamError when none does within ``timeout_s``."""
    with admin_client(bootstrap, timeout_s) as admin:
        admin.describe_cluster()


def create_topics(bootstrap: str, prefix: str, partitions: int, timeout_s: float, *, replayed: bool = False) -> None:
    """Create what is missing of `TOPICS`, then check them all as `check_topics` does.

    With ``replayed`` all but dead letters are kept without limit: Kafka would remove an old log's records at once.
    """
    with admin_client(bootstrap, timeout_s) as admin:
        present = admin.list_topics()
        missing = {
            topic_name(prefix, spec.name): {
                "num_partitions": spec.count(partitions),
                "replication_factor": -1,
                "configs": {
                    "retention.ms": str(-1 if replayed and spec.replayed else spec.retention_ms),
                    "max.message.bytes": str(REQUEST_BYTES),
                    "cleanup.policy": "delete",
                },
            }
            for spec in TOPICS.values()
            if topic_name(prefix, spec.name) not in present
        }
        if missing:
            admin.create_topics(missing, timeout_ms=to_ms(timeout_s), raise_errors=False)
            admin.wait_for_topics(list(missing), timeout_ms=to_ms(timeout_s))
    check_topics(bootstrap, prefix, partitions, timeout_s)


def check_topics(bootstrap: str, prefix: str, partitions: int, timeout_s: float) -> None:
    """StreamError naming every topic that is missing or has another number of partitions than declared."""
    with admin_client(bootstrap, timeout_s) as admin:
        found = partition_counts(admin)
    faults = []
    for spec in TOPICS.values():
        name, wanted = topic_name(prefix, spec.name), spec.count(partitions)
        if name not in found:
            faults.append(f"topic {name} is missing")
        elif found[name] != wanted:
            faults.append(f"topic {name} has {found[name]} partitions instead of {wanted}")
    if faults:
        raise StreamError(f"Kafka at {bootstrap}: {'; '.join(faults)}; create them with `onerec topics create`")


def log_identity(bootstrap: str, topic: str, timeout_s: float) -> str:
    """``cluster/topic`` ids: they change when the broker or the topic was recreated, even if offsets look the same."""
    with admin_client(bootstrap, timeout_s) as admin:
        cluster = admin.describe_cluster().get("cluster_id")
        for described in admin.describe_topics():
            if described["name"] == topic:
                return f"{cluster}/{described.get('topic_id')}"
    raise StreamError(f"Kafka at {bootstrap}: topic {topic} is missing")


class _Client(KafkaProducer):
    """kafka-python's producer, whose `close` gives up at a flush that fails, and leaves its thread and sockets behind."""

    ending = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)  # type: ignore[no-untyped-call]

    def flush(self, timeout: float | None = None) -> None:
        """As the base's; on the way out what cannot be delivered is left."""
        try:
            super().flush(timeout)  # type: ignore[no-untyped-call]
        except KafkaError:
            if not self.ending:
                raise


class Producer:
    """Sends records with an explicit partition, waits for all replicas, and knows the last offset acknowledged.

    Idempotent: retries neither duplicate nor reorder. After a failure the client is replaced, because an idempotent
    one never recovers from a restarted broker; what was sent since the last good `flush` must then be sent again.
    """

    def __init__(self, bootstrap: str, timeout_s: float) -> None:
        self.acknowledged: dict[tuple[str, int], int] = {}
        self._bootstrap, self._timeout_s = bootstrap, timeout_s
        self._unflushed: deque[Any] = deque()
        self._client: Any = None
        self._connect()

    def send(
        self,
        topic: str,
        value: bytes | None,
        partition: int,
        key: bytes | None = None,
        timestamp_ms: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> Any:
        """Queue a record; the future has ``get(timeout)``. StreamError if it is too large or the topic is unknown."""
        if len(self._unflushed) >= MAX_UNFLUSHED:
            self.flush()
        if self._client is None:
            self._connect()
        try:
            with named(self._bootstrap):
                future = self._client.send(
                    topic, value, key=key, headers=list(headers), partition=partition, timestamp_ms=timestamp_ms
                )
        except ValueError as error:  # no such partition
            raise StreamError(f"Kafka at {self._bootstrap}: {error}") from error
        future.add_callback(self._on_acknowledged)
        self._unflushed.append(future)
        return future

    def flush(self) -> None:
        """Wait until everything sent is acknowledged; StreamError names the broker and the first cause otherwise."""
        if self._client is None:
            return
        cause = self._first_failure()
        failed = [future for future in self._unflushed if not future.succeeded()]
        total = len(self._unflushed)
        self._unflushed.clear()
        if failed:
            cause = next((future.exception for future in failed if future.exception is not None), cause)
            self._disconnect(wait_s=0.0)  # what is not acknowledged is sent again by whoever sent it
            raise StreamError(f"Kafka at {self._bootstrap} did not acknowledge {len(failed)} of {total} records: {cause}")

    def close(self) -> None:
        """Flush and close; raises as `flush` does."""
        try:
            self.flush()
        finally:
            self._disconnect(self._timeout_s)

    def _first_failure(self) -> Exception | None:
        """Wait for every record sent, but no longer than for the first that fails: others may then hang for ever."""
        deadline = time.monotonic() + 2 * self._timeout_s
        try:
            for future in self._unflushed:
                future.get(max(deadline - time.monotonic(), 0.0))
            self._client.flush(timeout=self._timeout_s)  # all callbacks have run, too
        except KafkaError as error:
            return error
        return None

    def _on_acknowledged(self, metadata: Any) -> None:
        self.acknowledged[metadata.topic, metadata.partition] = metadata.offset

    def _connect(self) -> None:
        with named(self._bootstrap):
            await_connection(self._bootstrap, self._timeout_s)
            self._client = _Client(
                **client_settings(self._bootstrap, self._timeout_s),
                delivery_timeout_ms=to_ms(self._timeout_s),
                max_block_ms=to_ms(self._timeout_s),
                max_request_size=REQUEST_BYTES,
                compression_type="lz4",
                linger_ms=2,
                batch_size=2**18,
                allow_auto_create_topics=False,
            )

    def _disconnect(self, wait_s: float) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.ending = True
            client.close(timeout=wait_s)


class LogReader:
    """Reads one topic's partitions from explicit positions (partition -> next offset), without a consumer group.

    Raises:
        StreamError: a partition does not exist; a position lies before the log's beginning or after its end (both
            offsets are named), at construction or later; the broker did not answer within ``timeout_s``.
    """

    def __init__(self, bootstrap: str, topic: str, positions: dict[int, int], timeout_s: float) -> None:
        if not positions:
            raise ValueError(f"positions of {topic} must name at least one partition, got none")
        self.positions = dict(positions)
        self._bootstrap, self._topic, self._timeout_s = bootstrap, topic, timeout_s
        self._ends: dict[int, int] = {}
        self._last_sign = time.monotonic()
        self._check_partitions()
        with named(bootstrap):
            self._consumer: Any = KafkaConsumer(
                **client_settings(bootstrap, timeout_s),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                allow_auto_create_topics=False,
                fetch_max_wait_ms=FETCH_WAIT_MS,
                max_partition_fetch_bytes=REQUEST_BYTES,
                fetch_max_bytes=8 * REQUEST_BYTES,
            )
        try:
            self._check_positions()
        except BaseException:
            self.close()
            raise

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """Up to ``max_records`` next records, in offset order within a partition; empty after ``timeout_s``."""
        records = [self._record(raw) for batch in self._fetch(max_records, timeout_s).values() for raw in batch]
        for record in records:
            self.positions[record.partition] = record.offset + 1
        self._check_ends()
        if records:
            self._last_sign = time.monotonic()
        elif time.monotonic() - self._last_sign > self._timeout_s:
            self._check_beginnings()  # a silent broker is asked whether it is there at all
        return records

    def lag(self) -> dict[int, int]:
        """Records between each partition's position and the log's end as the last fetch saw it."""
        return {partition: max(end - self.positions[partition], 0) for partition, end in sorted(self._ends.items())}

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close(timeout_ms=to_ms(self._timeout_s))

    def _fetch(self, max_records: int, timeout_s: float) -> dict[Any, list[Any]]:
        try:
            with named(self._bootstrap):
                batches: dict[Any, list[Any]] = self._consumer.poll(timeout_ms=to_ms(timeout_s), max_records=max_records)
        except StreamError as error:
            if isinstance(error.__cause__, OffsetOutOfRangeError):
                self._raise_out_of_range(error)
            raise
        for source in self._consumer.assignment():
            end = self._consumer.highwater(source)
            if end is not None:
                self._ends[source.partition] = end
        return batches

    def _check_partitions(self) -> None:
        # Asked of the admin client, since a consumer's question may create the topic.
        with admin_client(self._bootstrap, self._timeout_s) as admin:
            count = partition_counts(admin).get(self._topic, 0)
        absent = sorted(partition for partition in self.positions if not 0 <= partition < count)
        if absent:
            raise StreamError(
                f"Kafka at {self._bootstrap}: topic {self._topic} has {count} partitions, none numbered {absent}"
            )

    def _check_positions(self) -> None:
        """Compare every position with its log; the true end comes with a fetch, which is therefore made here."""
        sources = {partition: TopicPartition(self._topic, partition) for partition in self.positions}
        self._consumer.assign(list(sources.values()))
        self._check_beginnings()
        deadline = time.monotonic() + self._timeout_s
        for partition, source in sources.items():
            self._consumer.assign([source])
            self._consumer.seek(source, self.positions[partition])
            while partition not in self._ends:
                if time.monotonic() > deadline:
                    raise StreamError(f"Kafka at {self._bootstrap} did not answer a fetch from {self._topic}[{partition}]")
                self._fetch(1, FETCH_WAIT_MS / 1000)
        self._check_ends()
        self._consumer.assign(list(sources.values()))
        for partition, source in sources.items():
            self._consumer.seek(source, self.positions[partition])

    def _check_beginnings(self) -> None:
        with named(self._bootstrap):
            begins = self._consumer.beginning_offsets(self._consumer.assignment(), timeout_ms=to_ms(self._timeout_s))
        self._last_sign = time.monotonic()
        for source, begin in begins.items():
            position = self.positions[source.partition]
            if position < begin:
                raise StreamError(self._no_longer(source.partition, f"the log begins at {begin}: retention removed it"))

    def _check_ends(self) -> None:
        for partition, end in self._ends.items():
            if self.positions[partition] > end:
                raise StreamError(self._no_longer(partition, f"the log ends at {end}: it was recreated"))

    def _raise_out_of_range(self, error: StreamError) -> None:
        self._check_beginnings()
        with named(self._bootstrap):
            ends = self._consumer.end_offsets(self._consumer.assignment(), timeout_ms=to_ms(self._timeout_s))
        self._ends.update({source.partition: end for source, end in ends.items()})
        self._check_ends()
        raise error

    def _no_longer(self, partition: int, why: str) -> str:
        where = f"{self._topic}[{partition}]"
        return f"Kafka at {self._bootstrap} does not have position {self.positions[partition]} of {where}; {why}"

    def _record(self, raw: Any) -> Record:
        return Record(raw.topic, raw.partition, raw.offset, raw.timestamp, raw.key, raw.value, list(raw.headers))
