"""The one writer of a run's parameter versions.

One publisher at a time holds the lease; its fencing number grows with every new holder, also over a Redis that restarted
empty, because it follows Redis' clock.
"""

from __future__ import annotations

import random
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass

import redis

from common.parameter_channel.connection import Connection, LeaseLostError, SupersededError
from common.parameter_channel.manifest import CHUNK_BYTES, Chunk, Manifest, Part, Precision, digest
from common.parameter_channel.wire import difference, halved

LEASE_S = 10.0
"""A publisher that died without closing blocks its successor for this long."""
MOST_PARTS = 16
"""A late joiner fetches at most so many parts."""
MOST_DIFFERENCE = 0.5
"""Differences together stay below this share of all parameters; beyond it everything is sent again."""

# All three run inside Redis, hence atomically.
CLAIM = """
local holder = redis.call('GET', KEYS[1])
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
local mine = tonumber(ARGV[3])
if (holder and holder ~= ARGV[1]) or (mine > 0 and last > mine) then return {0, last} end
if mine == 0 or last < mine then
    local now = redis.call('TIME')
    mine = math.max(last + 1, mine + 1, now[1] * 1000 + math.floor(now[2] / 1000))
    redis.call('SET', KEYS[2], string.format('%.0f', mine))
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, mine}
"""
COMMIT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
redis.call('PUBLISH', KEYS[3], ARGV[4])
return 1
"""
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


@dataclass(frozen=True, slots=True)
class _Out:
    """What is out in one precision: the newest parameters, and the parts of which readers put them together."""

    blob: bytes
    parts: list[Part]


class Publisher(Connection):
    """Writes versions; for one thread.

    Raises:
        ChannelError: Redis does not answer, or another publisher still holds the lease after `LEASE_S` + timeout.
    """

    def __init__(self, redis_url: str, run: str, keep_s: int, timeout_s: float) -> None:
        super().__init__(redis_url, run, timeout_s)
        self.fencing = 0
        self._keep_s = keep_s
        self._token = secrets.token_hex(16)
        self._newest: Manifest | None = None
        self._out: dict[Precision, _Out] = {}
        self._old: dict[int, set[str]] = {}
        self._extended = self._renewed = time.monotonic()
        try:
            self._acquire(time.monotonic() + LEASE_S + timeout_s)
        except BaseException:
            super().close()
            raise

    def publish(self, version: int, blob: bytes) -> float:
        """Write a version and make it the newest; returns the seconds it took.

        Publishing the newest version again is allowed when the bytes are the same (Redis may have lost it, or a reader may
        want it in another precision).

        Raises:
            ChannelError: the lease is lost, ``version`` goes back or names other bytes, or Redis failed; readers then
                still see the version before.
        """
        if version < 0 or not blob:
            raise ValueError(f"version must be >= 0 and blob not empty, got {version} and {len(blob)} bytes")
        started = time.monotonic()
        self.renew()
        seen = self._manifest()
        checksum = digest(blob)
        self._refuse_conflict(version, checksum, seen or self._newest)
        fencing = self.fencing
        with self._named():
            before = self._out if seen is not None and seen == self._newest and self._is_there(seen) else {}
            out: dict[Precision, _Out] = {"fp32": self._write(version, blob, checksum, "fp32", before.get("fp32"))}
            if "bf16" in self._wanted():
                half = halved(blob)
                out["bf16"] = self._write(version, half, digest(half), "bf16", before.get("bf16"))
            parts: dict[Precision, list[Part]] = {precision: one.parts for precision, one in out.items()}
            manifest = Manifest(run=self.run, version=version, fencing=fencing, parts=parts)
            keys = [self._key("lease"), self._key("manifest"), self._key("notice")]
            self._renew_lease()  # the chunks may have taken long
            if self.fencing != fencing:  # Redis restarted empty meanwhile: the chunks are gone
                return self.publish(version, blob)
            if not self._client.eval(COMMIT, 3, *keys, self._token, manifest.model_dump_json(), self._keep_s, version):
                raise self._error("the publisher's lease is lost", LeaseLostError)
        if self._newest is not None:
            unused = set(self._newest.keys) - set(manifest.keys)
            self._old.setdefault(self._newest.version, set()).update(unused)
        self._newest, self._out = manifest, out
        self._delete_old()
        return time.monotonic() - started

    def renew(self) -> None:
        """Keep the lease and the newest version alive; call it at least every few seconds.

        A lease that ran out unnoticed is taken again if nobody else held it meanwhile.

        Raises:
            ChannelError: another publisher has, or had, the lease.
        """
        with self._named():
            self._renew_lease()
            if self._newest is not None and time.monotonic() - self._extended > self._keep_s / 4:
                pipeline = self._client.pipeline(transaction=False)
                for key in (self._key("manifest"), *self._newest.keys):
                    pipeline.expire(key, self._keep_s)
                pipeline.execute()
                self._extended = time.monotonic()
            self._delete_old()

    def incomplete(self) -> bool:
        """Whether a reader could not have the newest version: then publish it again.

        None was published yet, or Redis restarted empty or with what it had some time ago, or it evicted a chunk, or nobody
        has wanted this precision before.
        """
        manifest = self._manifest()
        if manifest is None or (self._newest is not None and manifest.version < self._newest.version):
            return True
        with self._named():
            return not (self._wanted() <= manifest.parts.keys() and self._is_there(manifest))

    @property
    def parts(self) -> list[Part]:
        """Of which readers put the newest version together, in fp32."""
        return self._out["fp32"].parts if self._out else []

    def used(self) -> dict[str, list[int]]:
        """The versions that each reader of the last day acknowledged, oldest first."""
        with self._named():
            begin = self._key("used", "")
            keys = sorted(key.decode() for key in self._client.scan_iter(f"{begin}*"))
            readers = [key.removeprefix(begin) for key in keys]
            lists = {reader: self._client.lrange(self._key("used", reader), 0, -1) for reader in readers}
        return {reader: [int(version) for version in versions] for reader, versions in lists.items()}

    def close(self) -> None:
        """Give the lease back and close; versions stay until they expire."""
        with suppress(redis.RedisError):
            self._client.eval(RELEASE, 1, self._key("lease"), self._token)
        super().close()

    def _acquire(self, deadline: float) -> None:
        while True:
            with self._named():
                if self._claim():
                    return
            if time.monotonic() >= deadline:
                raise self._error("another publisher holds the lease; only one trainer may publish a run")
            time.sleep(random.uniform(0.05, 0.2))

    def _claim(self) -> bool:
        keys = [self._key("lease"), self._key("fencing")]
        held, fencing = self._client.eval(CLAIM, 2, *keys, self._token, int(LEASE_S * 1000), self.fencing)
        if held:
            self.fencing, self._renewed = int(fencing), time.monotonic()
        return bool(held)

    def _renew_lease(self) -> None:
        if not self._claim():
            raise self._error("the publisher's lease is lost: another publisher took it", LeaseLostError)

    def _renew_lease_late(self) -> None:
        """While a long version is written the lease must not run out."""
        if time.monotonic() - self._renewed > LEASE_S / 4:
            self._renew_lease()

    def _is_there(self, manifest: Manifest) -> bool:
        """Whether Redis has every chunk that a manifest names."""
        return bool(self._client.exists(*manifest.keys) == len(manifest.keys))

    def _wanted(self) -> set[Precision]:
        """The precisions that live readers take, and fp32."""
        wanted: set[Precision] = {"fp32"}
        readers = self._client.smembers(self._key("readers", "bf16"))
        return wanted | {"bf16"} if any(self._acknowledged(reader) is not None for reader in readers) else wanted

    def _write(self, version: int, whole: bytes, checksum: str, precision: Precision, before: _Out | None) -> _Out:
        """Put what readers need beside what is out already on the queue."""
        if before is not None and before.parts[-1].version == version:
            return before
        change = _change(before, whole)
        start = [] if before is None or change is None else before.parts
        view = memoryview(whole if change is None else change)
        pieces = [view[at : at + CHUNK_BYTES] for at in range(0, len(view), CHUNK_BYTES)]
        chunks = []
        for number, piece in enumerate(pieces):
            key = self._key("chunk", version, self.fencing, precision, number)
            self._client.set(key, piece, ex=self._keep_s)
            self._renew_lease_late()
            chunks.append(Chunk(key=key, nbytes=len(piece), xxh3_128=digest(piece)))
        return _Out(whole, [*start, Part(version=version, xxh3_128=checksum, chunks=chunks)])

    def _refuse_conflict(self, version: int, checksum: str, newest: Manifest | None) -> None:
        if newest is None:
            return
        if newest.version > version:
            text = f"version {version} is older than {newest.version}: rolling back starts a new run"
            raise self._error(text, SupersededError)
        if newest.version == version and newest.parts["fp32"][-1].xxh3_128 != checksum:
            raise self._error(f"version {version} was already published with other bytes")

    def _delete_old(self) -> None:
        """Delete what only versions are made of that every live reader has moved on from, and forget the dead ones."""
        readers = self._client.smembers(self._key("readers")) if self._old else ()
        held = []
        for reader in readers:
            if (version := self._acknowledged(reader)) is not None:
                held.append(version)
            else:
                self._client.srem(self._key("readers"), reader)
                self._client.srem(self._key("readers", "bf16"), reader)
        for version in [old for old in self._old if all(old < other for other in held)]:
            keys = self._old.pop(version)
            if keys:
                self._client.delete(*keys)

    def _acknowledged(self, reader: bytes) -> int | None:
        """A live reader's version; None of a dead one."""
        version = self._client.get(self._key("alive", reader.decode()))
        return None if version is None else int(version)


def _change(before: _Out | None, whole: bytes) -> bytes | None:
    """What to send in place of everything; None where everything is better."""
    if before is None or len(before.parts) >= MOST_PARTS:
        return None
    sent = sum(part.nbytes for part in before.parts[1:])
    try:
        return difference(before.blob, whole, int(MOST_DIFFERENCE * len(whole)) - sent)
    except ValueError:
        return None
