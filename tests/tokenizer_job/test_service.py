"""The online tokenizer on a real broker: new items become snapshots, a restart loses and repeats nothing."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
import torch

from common.context import DAY_MS
from common.item_index import IndexFollower, ItemIndex, latest_index, read_note, versions
from common.messages import DeadLetter, Item, ItemEvent, decode
from common.settings import Settings
from common.stream import LogReader, Producer, StreamError, create_topics, topic_name
from tests.tokenizer_job.tiny_log import FIRST_ID, ITEMS, WIDTH, make_sessions, small, write_log
from tokenizer_job.job import build_index
from tokenizer_job.service import ItemFollower

torch.set_num_threads(1)
TIMEOUT_S = 10.0


@pytest.fixture
def prefix(kafka: str) -> str:
    name = f"items{secrets.token_hex(4)}"
    create_topics(kafka, name, 1, TIMEOUT_S)
    return name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_index(write_log(tmp_path / "log", make_sessions(), content=True), settings(), tmp_path, 2)
    return tmp_path


def settings(*more: str) -> Settings:
    return small("stream.timeout_s=10", "stream.partitions=1", "tokenizer.online.publish_every_s=0.05", *more)


def send(kafka: str, prefix: str, *values: bytes | int) -> None:
    with closing(Producer(kafka, TIMEOUT_S)) as producer:
        for value in values:
            if isinstance(value, int):
                vector = np.random.default_rng(value).normal(size=WIDTH).tolist()
                value = ItemEvent(item=Item(item_id=value), content=[vector]).to_bytes()
            producer.send(topic_name(prefix, "items"), value, 0)
        producer.flush()


@contextmanager
def following(folder: Path, kafka: str, prefix: str, given: Settings) -> Iterator[ItemFollower]:
    stop = Event()
    follower = ItemFollower(folder, kafka, prefix, given)
    thread = Thread(target=follower.run, args=(stop,))
    thread.start()
    yield follower
    stop.set()
    thread.join()
    follower.close()


def wait_for(folder: Path, item_id: int) -> ItemIndex:
    """The first snapshot that a reader which follows the folder sees with this item."""
    deadline = time.monotonic() + 3 * TIMEOUT_S
    with closing(IndexFollower(folder / "index")) as reader:
        while reader.current.rows([item_id])[0] < 0:
            assert time.monotonic() < deadline, f"item {item_id} was never indexed"
            reader.poll()
            time.sleep(0.01)
        return reader.current


def test_new_items_reach_a_reader_and_a_restart_goes_on(folder: Path, kafka: str, prefix: str) -> None:
    first = ItemIndex.load(latest_index(folder / "index"))
    with following(folder, kafka, prefix, settings()):
        send(kafka, prefix, 1, 2)
        second = wait_for(folder, 2)
    assert len(second) == ITEMS + 2
    send(kafka, prefix, 3)
    with following(folder, kafka, prefix, settings()):
        send(kafka, prefix, ItemEvent(item=Item(item_id=FIRST_ID), removed=True).to_bytes(), 4)
        third = wait_for(folder, 4)
    assert (third.rows([1, 2, 3, 4]) >= 0).all()
    assert third.rows([FIRST_ID])[0] < 0
    kept = first.item_ids[first.item_ids != FIRST_ID]
    np.testing.assert_array_equal(third.sids[third.rows(kept)], first.sids[first.rows(kept)])
    note = read_note(latest_index(folder / "index"))
    assert note["positions"] == {"0": 5}
    assert note["drift"]["items"] == 4
    assert third.tokenizer_version == first.tokenizer_version


def test_what_cannot_be_used_is_kept_as_a_dead_letter(folder: Path, kafka: str, prefix: str) -> None:
    wide = ItemEvent(item=Item(item_id=9), content=[[1.0]]).to_bytes()
    endless = json.dumps({"item": {"item_id": 9}, "content": [[float("inf")] * WIDTH]}).encode()
    tomorrow = int(time.time() * 1000) + 2 * DAY_MS  # one such time, and all other items would be too old
    early = ItemEvent(item=Item(item_id=8, publish_ms=tomorrow), content=[[1.0] * WIDTH]).to_bytes()
    with following(folder, kafka, prefix, settings()):
        send(kafka, prefix, b"{not json", wide, endless, early, 5)
        wait_for(folder, 5)
    with closing(LogReader(kafka, topic_name(prefix, "dead-letters"), {0: 0}, TIMEOUT_S)) as reader:
        records = reader.poll(10, TIMEOUT_S)
    letters = [letter for r in records if isinstance(letter := decode(DeadLetter, r.value), DeadLetter)]
    assert [letter.offset for letter in letters] == [0, 1, 2, 3]
    assert f"must be {WIDTH} wide" in letters[1].reason
    assert "content" in letters[2].reason
    assert "item.publish_ms must be at most a day ahead of now" in letters[3].reason


def test_only_so_many_snapshots_are_kept(folder: Path, kafka: str, prefix: str) -> None:
    with following(folder, kafka, prefix, settings("tokenizer.online.keep_snapshots=2")):
        for item in range(1, 5):
            send(kafka, prefix, item)
            newest = wait_for(folder, item)
    assert versions(folder / "index") == [newest.version - 1, newest.version]


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path, folder: Path, kafka: str, prefix: str) -> None:
    (folder / "tokenizer" / "card.json").unlink()
    with pytest.raises(ValueError, match="holds no tokenizer"):
        ItemFollower(folder, kafka, prefix, settings())


def test_content_that_cannot_be_encoded_is_kept_and_stops_nothing(tmp_path: Path, kafka: str, prefix: str) -> None:
    """Each of its numbers is finite; what the aligner makes of them is not."""
    log, given = write_log(tmp_path / "log", make_sessions(), content=True), settings("tokenizer.vectors=aligned")
    build_index(log, given, tmp_path, 2)
    send(kafka, prefix, ItemEvent(item=Item(item_id=1), content=[[3e38] * WIDTH]).to_bytes(), 2)
    with closing(ItemFollower(tmp_path, kafka, prefix, given)) as follower:
        deadline = time.monotonic() + TIMEOUT_S
        while not follower.online.waiting and time.monotonic() < deadline:
            follower.take(follower.reader.poll(10, 0.2))
        follower.publish()
    index = ItemIndex.load(latest_index(tmp_path / "index"))
    assert (index.rows([1, 2]) >= 0).tolist() == [False, True]
    with closing(LogReader(kafka, topic_name(prefix, "dead-letters"), {0: 0}, TIMEOUT_S)) as reader:
        (letter,) = [decode(DeadLetter, record.value) for record in reader.poll(10, TIMEOUT_S)]
    assert isinstance(letter, DeadLetter)
    assert (letter.offset, letter.reason) == (0, "item 1: its content is too large to be encoded")


def test_another_number_of_partitions_is_refused(folder: Path, kafka: str) -> None:
    name = f"items{secrets.token_hex(4)}"
    create_topics(kafka, name, 2, TIMEOUT_S)
    with pytest.raises(StreamError, match=f"topic {name}.sessions has 2 partitions instead of 1"):
        ItemFollower(folder, kafka, name, settings())
