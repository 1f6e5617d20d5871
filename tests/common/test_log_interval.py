import itertools
from contextlib import closing

import pytest

from common.kafka_client import StreamError
from common.log_interval import held_ranges, offsets_at, records_between
from common.stream import Producer, create_topics, topic_name

TIMEOUT_S = 10.0
TIMES = {0: [100, 200, 150, 300, 400], 1: [120, 310]}
"""Times of the records of each partition; one is late."""
numbers = itertools.count()


@pytest.fixture(scope="module")
def topic(kafka: str) -> str:
    prefix = f"interval{next(numbers)}"
    create_topics(kafka, prefix, 3, TIMEOUT_S)
    name = topic_name(prefix, "sessions")
    with closing(Producer(kafka, TIMEOUT_S)) as producer:
        for partition, times in TIMES.items():
            for time_ms in times:
                producer.send(name, str(time_ms).encode(), partition, b"k", time_ms, [("h", b"v")])
    return name


def test_what_a_topic_holds(kafka: str, topic: str) -> None:
    assert held_ranges(kafka, topic, TIMEOUT_S) == {0: (0, 5), 1: (0, 2), 2: (0, 0)}


def test_a_topic_that_does_not_exist(kafka: str) -> None:
    with pytest.raises(StreamError, match=r"topic no\.such does not exist"):
        held_ranges(kafka, "no.such", TIMEOUT_S)


def test_records_come_in_the_order_of_time_and_each_partitions_own(kafka: str, topic: str) -> None:
    records = list(records_between(kafka, topic, {0: (0, 5), 1: (0, 2)}, TIMEOUT_S))
    assert [record.timestamp_ms for record in records] == [100, 120, 200, 150, 300, 310, 400]
    assert [record.offset for record in records if record.partition == 0] == [0, 1, 2, 3, 4]
    assert (records[0].key, records[0].headers) == (b"k", [("h", b"v")])


def test_only_the_ranges_are_read(kafka: str, topic: str) -> None:
    records = list(records_between(kafka, topic, {0: (1, 3), 1: (1, 1), 2: (0, 0)}, TIMEOUT_S))
    assert [(record.partition, record.offset) for record in records] == [(0, 1), (0, 2)]
    assert list(records_between(kafka, topic, {}, TIMEOUT_S)) == []


@pytest.mark.parametrize(
    ("time_ms", "offsets"),
    [
        (0, {0: 0, 1: 0}),
        (100, {0: 0, 1: 0}),
        (130, {0: 1, 1: 1}),
        (250, {0: 3, 1: 1}),
        (400, {0: 4, 1: 2}),
        (401, {0: 5, 1: 2}),
    ],
)
def test_where_a_time_begins(kafka: str, topic: str, time_ms: int, offsets: dict[int, int]) -> None:
    held = held_ranges(kafka, topic, TIMEOUT_S)
    assert offsets_at(kafka, topic, held, time_ms, TIMEOUT_S) == offsets | {2: 0}


def test_a_range_that_the_log_does_not_hold(kafka: str, topic: str) -> None:
    with pytest.raises(StreamError, match="nothing follows 2"):
        list(records_between(kafka, topic, {1: (0, 3)}, 0.5))
