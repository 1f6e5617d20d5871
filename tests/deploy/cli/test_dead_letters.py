from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from common.messages import Session, decode
from common.origin import origin_of
from common.stream import Producer, dead_letter, dead_letter_key, partition_of
from tests.deploy.cli.in_process import is_told, onerec
from tests.deploy.cli.topics import TIMEOUT_S, Topics

GOOD = {"session_id": "mended", "user_id": 3, "time_ms": 5, "impressions": [{"item_id": 1, "time_ms": 5}]}
BROKEN = [json.dumps(GOOD | {"user_id": -3}).encode(), json.dumps(GOOD).encode()[:-20], b"\x00\xff"]
"""A wrong field, a cut message, noise."""
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def refused(kafka: str) -> Topics:
    """Topics with three messages that do not validate, and their dead letters, one of which was written twice."""
    topics = Topics.make(kafka)
    with closing(Producer(kafka, TIMEOUT_S)) as producer:
        for value in BROKEN:
            producer.send(topics.name(), value, 0)
        producer.flush()
        for record in topics.records():
            reason = decode(Session, record.value)
            assert isinstance(reason, str)
            for _ in range(1 + record.offset % 2):
                letter = dead_letter(record, reason).to_bytes()
                producer.send(topics.name("dead-letters"), letter, 0, dead_letter_key(record))
    return topics


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, repairs: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, repairs)))
    return path


def test_they_are_shown_once_and_by_reason_and_topic(capsys: Capture, refused: Topics) -> None:
    command = ("replay", "dead-letters", *refused.where())
    shown = onerec(capsys, *command).out.splitlines()
    assert [line.split("  ")[0] for line in shown] == [f"{refused.name()}[0]@{offset}" for offset in range(3)]
    assert len(onerec(capsys, *command, "--reason", "user_id").out.splitlines()) == 1
    assert len(onerec(capsys, *command, "--topic", "sessions").out.splitlines()) == 3
    assert onerec(capsys, *command, "--topic", "items").out == ""


def test_what_was_mended_comes_back_once_in_its_users_partition(capsys: Capture, tmp_path: Path, refused: Topics) -> None:
    file = tmp_path / "letters.jsonl"
    assert onerec(capsys, "replay", "dead-letters", "--write", file, *refused.where()).code == 0
    wrong, cut, noise = lines(file)
    assert isinstance(wrong["message"], dict)
    assert (cut["message"], noise["message"]) == (BROKEN[1].decode(), "\x00\udcff")
    wrong["message"]["user_id"] = 3
    cut["message"] = json.dumps(GOOD | {"session_id": "mended too", "user_id": 4})
    command = ("replay", "dead-letters", write(file, [wrong, cut]), *refused.where())
    assert "2 repaired messages would be put" in onerec(capsys, *command, "--dry-run").err
    assert len(refused.records()) == 3
    assert "2 repaired messages put" in onerec(capsys, *command).err
    assert "0 repaired messages put" in onerec(capsys, *command).err
    back = [record for record in refused.records() if origin_of(record)]
    found = {session.session_id: record for record in back if isinstance(session := decode(Session, record.value), Session)}
    assert found.keys() == {"mended", "mended too"}
    for name, user, offset in (("mended", 3, 0), ("mended too", 4, 1)):
        record, origin = found[name], origin_of(found[name])
        assert (record.partition, record.key, record.timestamp_ms) == (partition_of(user, 2), str(user).encode(), 5)
        assert origin is not None
        assert (origin.topic, origin.partition, origin.offset) == (refused.name(), 0, offset)


def test_nothing_is_put_back_unless_all_of_it_is_valid(capsys: Capture, tmp_path: Path, refused: Topics) -> None:
    file = tmp_path / "letters.jsonl"
    assert onerec(capsys, "replay", "dead-letters", "--write", file, *refused.where()).code == 0
    wrong, cut, _ = lines(file)
    wrong["message"]["user_id"] = 3
    command = ("replay", "dead-letters", file, *refused.where())
    write(file, [wrong, cut])
    is_told(capsys, *command, about="letters.jsonl line 2 is not valid yet: ")
    write(file, [wrong | {"topic": "other.sessions"}])
    is_told(capsys, *command, about=f"line 1: topic must be one of {refused.prefix}.*, got 'other.sessions'")
    write(file, [wrong, {"topic": refused.name()}])
    is_told(capsys, *command, about="line 2: partition: Field required")
    is_told(capsys, *command, "--reason", "x", about="they do not go with a file")
    is_told(capsys, "replay", "dead-letters", "--write", file, *refused.where(), about="letters.jsonl exists already")
    assert len(refused.records()) == 3
