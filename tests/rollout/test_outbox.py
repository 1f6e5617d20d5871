"""Answers on their way to a real Kafka, whose acknowledgement fails when told to."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from common.stream import LogReader, Producer, Record, StreamError, create_topics, topic_name
from rollout.fleet import DELIVERY_ATTEMPTS, Outbox, Outgoing
from rollout.ledger import Ledger

FLUSH = Producer.flush


@pytest.fixture
def topic(kafka: str) -> str:
    """A topic of groups, of one partition."""
    prefix = f"outbox-{uuid.uuid4().hex[:8]}"
    create_topics(kafka, prefix, 1, 30.0)
    return topic_name(prefix, "rollout-groups")


@pytest.fixture
def producer(kafka: str) -> Iterator[Producer]:
    with closing(Producer(kafka, 30.0)) as made:
        yield made


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Ten requests are read, none is answered."""
    made = Ledger(tmp_path / "fleet.json", "r", 1)
    for offset in range(10):
        made.frontiers[0].begin(offset)
    return made


def answer_to(offset: int, topic: str) -> Outgoing:
    request = Record("requests", 0, offset, 0, None, None, [])
    return Outgoing(topic, 0, b"%d" % offset, b"answer %d" % offset, request)


def answers(kafka: str, topic: str, count: int) -> list[bytes | None]:
    """Waits for ``count``, then a little longer for any that are too many."""
    records: list[Record] = []
    deadline = time.monotonic() + 30.0
    with closing(LogReader(kafka, topic, {0: 0}, 10.0)) as reader:
        while len(records) < count and time.monotonic() < deadline:
            records += reader.poll(100, 0.2)
        return [record.value for record in records + reader.poll(100, 0.5)]


def failing(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    """The next flushes do their work and then fail, as one whose acknowledgement is lost."""
    left = [StreamError("the broker was away") for _ in range(failures)]

    def flush(producer: Producer) -> None:
        FLUSH(producer)
        if left:
            raise left.pop()

    monkeypatch.setattr(Producer, "flush", flush)


def test_what_is_not_acknowledged_settles_nothing_and_is_produced_once_more(
    kafka: str, topic: str, producer: Producer, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(producer, ledger)
    outbox.add(answer_to(0, topic))
    failing(monkeypatch, 1)
    outbox.deliver()
    assert ledger.positions == {0: 0}
    assert not (tmp_path / "fleet.json").exists()
    outbox.add(answer_to(1, topic))
    outbox.deliver()
    assert ledger.positions == {0: 2}
    assert json.loads((tmp_path / "fleet.json").read_text())["positions"] == {"0": 2}
    outbox.deliver()
    assert answers(kafka, topic, 3) == [b"answer 0", b"answer 0", b"answer 1"]


def test_a_broker_that_fails_several_times_in_a_row_is_an_error_and_what_waits_stays(
    topic: str, producer: Producer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(producer, ledger)
    for offset in range(2):  # failures before a success do not count for the next
        outbox.add(answer_to(offset, topic))
        failing(monkeypatch, DELIVERY_ATTEMPTS - 1)
        for _ in range(DELIVERY_ATTEMPTS):
            outbox.deliver()
        assert ledger.positions == {0: offset + 1}
    outbox.add(answer_to(2, topic))
    failing(monkeypatch, DELIVERY_ATTEMPTS)
    for _ in range(DELIVERY_ATTEMPTS - 1):
        outbox.deliver()
    with pytest.raises(StreamError, match="was away"):
        outbox.deliver()
    assert ledger.positions == {0: 2}
    outbox.deliver()
    assert ledger.positions == {0: 3}
