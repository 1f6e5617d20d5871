from __future__ import annotations

import secrets

import pytest

from common.stream import Record, create_topics
from deploy.data.place import Place
from deploy.data.putting import Target, put
from deploy.data.recorded import Source

TIMEOUT_S = 10.0


def test_a_paced_replay_waits_for_each_record_and_puts_all(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix, waits = f"put{secrets.token_hex(4)}", list[float]()
    create_topics(kafka, prefix, 1, TIMEOUT_S)
    monkeypatch.setattr("deploy.data.putting.time.sleep", waits.append)
    records = [Record("a.items", 0, offset, 60_000 * offset, None, b"{}", []) for offset in range(3)]
    source = Source("c/t", "a.items", 1, {0: (0, 3)}, None, records)
    place = Place(kafka, prefix, TIMEOUT_S)
    outcome = put(source, Target.open(place, place.topic("items")), speed=1.0)
    assert (outcome.put, outcome.there) == ({0: 3}, 0)
    assert [round(wait_s / 60) for wait_s in waits if wait_s > 10] == [1, 2]
    assert len(Target.open(place, place.topic("items")).origins) == 3


def test_two_records_of_one_origin_are_put_once(kafka: str) -> None:
    prefix = f"put{secrets.token_hex(4)}"
    create_topics(kafka, prefix, 1, TIMEOUT_S)
    place = Place(kafka, prefix, TIMEOUT_S)
    records = [Record("a.items", 0, 7, 0, None, b"{}", [])] * 2
    source = Source("c/t", "a.items", 1, {0: (7, 8)}, None, records)
    outcome = put(source, Target.open(place, place.topic("items")))
    assert (outcome.put.total(), outcome.there) == (1, 1)
