from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from common.messages import Session, decode
from common.origin import HEADER, Origin, origin_of
from common.record_file import RecordFile
from common.stream import Producer, Record, log_identity, partition_of
from tests.deploy.cli.in_process import is_told, onerec
from tests.deploy.cli.topics import COUNT, FIRST_MS, TIMEOUT_S, USERS, Topics

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def source(kafka: str) -> Topics:
    topics = Topics.make(kafka)
    topics.fill()
    return topics


def session_of(record: Record) -> Session:
    session = decode(Session, record.value)
    assert isinstance(session, Session)
    return session


def test_a_topic_goes_through_a_file_to_another_topic_and_keeps_everything(
    capsys: Capture, tmp_path: Path, source: Topics
) -> None:
    file, target = tmp_path / "sessions.jsonl.gz", Topics.make(source.kafka)
    assert onerec(capsys, "export", "sessions", file, *source.where()).code == 0
    before = source.records()
    assert list(RecordFile.open(file)) == before
    done = onerec(capsys, "replay", file, "--to-topic", "sessions", *target.where())
    assert (done.code, done.err.count("40 records of")) == (0, 1), done
    log = log_identity(source.kafka, source.name(), TIMEOUT_S)
    for was, put in zip(before, target.records(), strict=True):
        origin = Origin(log=log, topic=source.name(), partition=was.partition, offset=was.offset)
        assert put.headers == [("trace", b"\xff"), origin.header]
        assert (put.partition, put.timestamp_ms, put.key, put.value) == (was.partition, was.timestamp_ms, was.key, was.value)


def test_what_was_interrupted_goes_on_and_nothing_is_put_twice(capsys: Capture, source: Topics) -> None:
    target = Topics.make(source.kafka)
    command = ("replay", source.name(), "--to-topic", target.name(), *target.where())
    half = onerec(capsys, *command, "--from", "2024-01-01T00:00:10Z", "--to", f"{FIRST_MS + 20_000}ms")
    assert "10 records of" in half.err
    dry = onerec(capsys, *command, "--dry-run")
    assert "30 records of" in dry.err
    assert "would be put" in dry.err
    assert "10 were there already" in dry.err
    assert len(target.records()) == 10
    assert "30 records of" in onerec(capsys, *command).err
    assert "0 records of" in onerec(capsys, *command).err
    assert sorted(session_of(record).session_id for record in target.records()) == sorted(f"s{k}" for k in range(COUNT))


def test_the_first_origin_stays_through_a_second_replay(capsys: Capture, source: Topics) -> None:
    second, third = Topics.make(source.kafka), Topics.make(source.kafka)
    for start, end in ((source, second), (second, third)):
        assert onerec(capsys, "replay", start.name(), "--to-topic", end.name(), *end.where(), "--to", 3).code == 0
    assert {origin.topic for record in third.records() if (origin := origin_of(record))} == {source.name()}
    assert all([name for name, _ in record.headers].count(HEADER) == 1 for record in third.records())


def test_one_users_records(capsys: Capture, tmp_path: Path, source: Topics) -> None:
    file, target = tmp_path / "user.jsonl.gz", Topics.make(source.kafka)
    assert onerec(capsys, "export", "sessions", file, "--user", 3, *source.where()).code == 0
    assert [session_of(record).session_id for record in RecordFile.open(file)] == [f"s{k}" for k in range(3, COUNT, USERS)]
    assert onerec(capsys, "replay", source.name(), "--to-topic", target.name(), "--user", 4, *target.where()).code == 0
    assert {session_of(record).user_id for record in target.records()} == {4}


def test_sessions_are_distributed_anew_where_the_number_of_partitions_differs(capsys: Capture, source: Topics) -> None:
    target = Topics.make(source.kafka, partitions=3)
    done = onerec(capsys, "replay", source.name(), "--to-topic", target.name(), *target.where())
    assert "distributed anew by user, over 3 partitions instead of 2" in done.err
    records = target.records()
    assert len(records) == COUNT
    assert all(record.partition == partition_of(session_of(record).user_id, 3) for record in records)
    assert "0 records of" in onerec(capsys, "replay", source.name(), "--to-topic", target.name(), *target.where()).err


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (("--from", "yesterday"), "--from must be an offset (1200), a time with its zone"),
        (("--from", "2024-01-01T00:00:00"), "--from must be a time with its zone, such as 2024-01-01T00:00:00Z"),
        (("--to", "2024-13-01T00:00:00Z"), "--to must be an offset"),
        (("--from", "1704067200000"), "a time in ms is written 1704067200000ms"),
        (("--from", "999"), "--from 999 is out of range"),
        (("--from", "3", "--to", "3"), "holds no records from 3 to 3"),
        (("--from", "-2h"), "holds no records from -2h to its end"),
        (("--partition", "7"), "--partition must be one of 0, 1 of"),
    ],
)
def test_a_wrong_interval_is_told_and_nothing_is_written(
    capsys: Capture, tmp_path: Path, source: Topics, arguments: tuple[str, ...], about: str
) -> None:
    is_told(capsys, "export", "sessions", tmp_path / "out", *source.where(), *arguments, about=about)
    assert list(tmp_path.iterdir()) == []


def test_wrong_names_are_told(capsys: Capture, tmp_path: Path, source: Topics) -> None:
    where, file = source.where(), tmp_path / "out.gz"
    is_told(capsys, "export", "nothing", file, *where, about="topic nothing does not exist")
    is_told(capsys, "export", "sessions", file, about="either --run-folder or --kafka HOST:PORT must say where")
    is_told(capsys, "export", "items", file, "--user", 1, *where, about="holds no records")
    is_told(capsys, "replay", "sessions", *where, about="--to-topic must name the topic")
    is_told(capsys, "replay", "sessions", "--to-topic", "gone", *where, about="topic gone does not exist")
    is_told(capsys, "replay", "no/such.gz", "--to-topic", "items", *where, about="no/such.gz does not exist")
    is_told(capsys, "replay", "sessions", "--to-topic", "sessions", *where, about="must be another topic than the source")
    (tmp_path / "taken").write_text("mine")
    is_told(capsys, "export", "sessions", tmp_path / "taken", *where, about="taken exists already")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_file_that_is_cut_puts_nothing(capsys: Capture, tmp_path: Path, source: Topics) -> None:
    file, target = tmp_path / "cut.gz", Topics.make(source.kafka)
    assert onerec(capsys, "export", "sessions", file, *source.where()).code == 0
    is_told(
        capsys, "replay", file, "--to-topic", "sessions", *target.where(), "--from", 99, about="--from 99 is out of range"
    )
    file.write_bytes(file.read_bytes()[:-40])
    is_told(capsys, "replay", file, "--to-topic", "sessions", *target.where(), about="cut.gz is cut")
    assert target.records() == []


def test_only_sessions_can_be_distributed_anew(capsys: Capture, source: Topics) -> None:
    one, three = Topics.make(source.kafka), Topics.make(source.kafka, partitions=3)
    with closing(Producer(source.kafka, TIMEOUT_S)) as producer:
        producer.send(one.name("rollout-groups"), b"{}", 0)
    where = three.where()
    command = ("replay", one.name("rollout-groups"), "--to-topic", "rollout-groups", *where)
    is_told(capsys, *command, about="only sessions can be distributed anew")


@pytest.mark.parametrize("command", ["export", "bundle", "replay", "replay records", "replay dead-letters", "tail"])
def test_every_command_has_help(capsys: Capture, command: str) -> None:
    done = onerec(capsys, *command.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert f"onerec {command}" in done.out


def test_options_of_exported_files_are_refused_for_a_session_log(capsys: Capture, tmp_path: Path) -> None:
    is_told(capsys, "replay", tmp_path, "--from", "-2h", about="is a session log: --to-topic, --from")
