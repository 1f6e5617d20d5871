import itertools
import json
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from common.content import Content
from common.messages import Impression, Item, ItemEvent, Session, decode
from common.session_log import DAY_MS, LogWriter, SessionLog
from common.stream import TOPICS, LogReader, Producer, Record, StreamError, create_topics, partition_of, topic_name
from deploy.data.replay import replay

NOON = 20_000 * DAY_MS + DAY_MS // 2
TIMEOUT_S = 10.0
PARTITIONS = 3
numbers = itertools.count()


@pytest.fixture
def prefix(kafka: str) -> str:
    name = f"replay{next(numbers)}"
    create_topics(kafka, name, PARTITIONS, TIMEOUT_S)
    return name


def make_log(path: Path, times: list[int], items: Sequence[Item] = (), content: Content | None = None) -> SessionLog:
    sessions = [
        Session(session_id=f"s{k}", user_id=k % 5, time_ms=t, impressions=[Impression(item_id=k, time_ms=t)])
        for k, t in enumerate(times)
    ]
    LogWriter(path, "test", 1, []).write(items, [], sessions, content)
    return SessionLog.open(path)


def read(kafka: str, prefix: str, count: int, name: str = "sessions") -> list[Record]:
    topic, records = topic_name(prefix, name), list[Record]()
    partitions = TOPICS[name].count(PARTITIONS)
    deadline = time.monotonic() + TIMEOUT_S
    with closing(LogReader(kafka, topic, dict.fromkeys(range(partitions), 0), TIMEOUT_S)) as reader:
        while len(records) < count and time.monotonic() < deadline:
            records += reader.poll(1000, 1.0)
    return records


def test_items_published_since_the_first_day_follow_with_their_content(tmp_path: Path, kafka: str, prefix: str) -> None:
    days = [20_000 * DAY_MS + day * DAY_MS for day in range(4)]
    items = [Item(item_id=k, publish_ms=ms) for k, ms in enumerate([days[3] + 5, 0, days[1], days[1] - 1, days[2] + 7])]
    content = Content.of(np.arange(20.0).reshape(5, 2, 2), np.array([[True, k % 2 == 0] for k in range(5)]))
    log = make_log(tmp_path / "log", [NOON + day * DAY_MS for day in range(3)], items, content)
    replay(log, kafka, prefix, PARTITIONS, first_day=1)
    records = read(kafka, prefix, 3, "items")
    events = [event for record in records if isinstance(event := decode(ItemEvent, record.value), ItemEvent)]
    assert [event.item.item_id for event in events] == [2, 4, 0]  # by time, those after the last session, too
    assert [record.timestamp_ms for record in records] == [event.item.publish_ms for event in events]
    assert events[0].content == [[8.0, 9.0], [10.0, 11.0]]
    assert len(read(kafka, prefix, 2)) == 2


def test_sessions_of_the_days_arrive_keyed_partitioned_and_stamped(tmp_path: Path, kafka: str, prefix: str) -> None:
    log = make_log(tmp_path / "log", [NOON + day * DAY_MS + k for day in range(4) for k in range(10)])
    ends = replay(log, kafka, prefix, PARTITIONS, first_day=1, last_day=2)
    records = read(kafka, prefix, 20)
    sessions = [decode(Session, record.value) for record in records]
    assert sorted(s.session_id for s in sessions if isinstance(s, Session)) == sorted(f"s{k}" for k in range(10, 30))
    for record, session in zip(records, sessions, strict=True):
        assert isinstance(session, Session)
        assert record.key == str(session.user_id).encode()
        assert record.partition == partition_of(session.user_id, PARTITIONS)
        assert record.timestamp_ms == session.time_ms
    for partition in range(PARTITIONS):
        own = [(r.offset, r.timestamp_ms) for r in records if r.partition == partition]
        assert own == sorted(own)
        assert ends[partition] == len(own) - 1


def test_the_end_is_told_only_when_everything_was_acknowledged(tmp_path: Path, kafka: str, prefix: str) -> None:
    log, run = make_log(tmp_path / "log", [NOON]), tmp_path / "run"
    run.mkdir()
    (run / "replay.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no sessions on days 5\.\.end"):
        replay(log, kafka, prefix, PARTITIONS, first_day=5, run_folder=run)
    assert not (run / "replay.json").exists()
    (run / "endpoints.json").write_text('{"run": "r1"}')
    replay(log, kafka, prefix, PARTITIONS, run_folder=run)
    told = json.loads((run / "replay.json").read_text())
    assert told == {"run": "r1", "ends": {str(p): 0 if p == partition_of(0, PARTITIONS) else -1 for p in range(PARTITIONS)}}


def test_a_paced_replay_takes_its_share_of_the_time(tmp_path: Path, kafka: str, prefix: str) -> None:
    log = make_log(tmp_path / "log", [NOON + 600 * k for k in range(6)])
    started = time.monotonic()
    replay(log, kafka, prefix, PARTITIONS, speed=4.0)
    assert 0.6 < time.monotonic() - started < 5
    assert len(read(kafka, prefix, 6)) == 6


@pytest.mark.timeout(60)
def test_a_paced_replay_does_not_wait_for_items_after_its_last_session(tmp_path: Path, kafka: str, prefix: str) -> None:
    a_day_later = Item(item_id=1, publish_ms=NOON + DAY_MS)
    replay(make_log(tmp_path / "log", [NOON, NOON + 600], [a_day_later]), kafka, prefix, PARTITIONS, speed=4.0)
    assert [record.timestamp_ms for record in read(kafka, prefix, 1, "items")] == [NOON + DAY_MS]


def test_what_a_failure_leaves_unsure_is_sent_again(
    tmp_path: Path, kafka: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, failures = Producer.flush, [StreamError("the broker was away")]

    def fail_once(producer: Producer) -> None:
        flush(producer)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(Producer, "flush", fail_once)
    ends = replay(make_log(tmp_path / "log", [NOON, NOON + 1]), kafka, prefix, PARTITIONS)
    sessions = [decode(Session, record.value) for record in read(kafka, prefix, 4)]
    assert sorted(s.session_id for s in sessions if isinstance(s, Session)) == ["s0", "s0", "s1", "s1"]
    assert sum(end + 1 for end in ends.values()) == 4


@pytest.mark.parametrize(("partitions", "speed"), [(0, 0.0), (1, -1.0)])
def test_arguments_out_of_range_are_refused(tmp_path: Path, partitions: int, speed: float) -> None:
    with pytest.raises(ValueError, match=f"got {partitions} and {speed}"):
        replay(make_log(tmp_path / "log", [NOON]), "127.0.0.1:1", "x", partitions, speed=speed)
