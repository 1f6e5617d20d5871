"""Parameters from the trainer to the rollout fleet through Redis.

A version is the step of a committed checkpoint and its blob that checkpoint's bytes. Chunks are written first, the
manifest that names them (sizes, checksums) last, then a notice is sent. Readers verify before they use anything and
refuse another run, an older publisher and a version that goes back. One publisher at a time holds the lease; its
fencing number grows with every new holder, also over a Redis that restarted empty, because it follows Redis' clock.
"""

from __future__ import annotations

import random
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import redis
import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

CHUNK_BYTES = 8 * 2**20
LEASE_S = 10.0
"""A publisher that died without closing blocks its successor for this long."""
READER_S = 60.0
"""A reader that showed no sign for this long is no longer waited for."""
USED_VERSIONS = 100_000
"""Acknowledgements remembered per reader."""


class ChannelError(RuntimeError):
    """The channel cannot be used as asked; names the Redis server (HOST:PORT) and the cause, never the password."""


class LeaseLostError(ChannelError):
    """Another publisher has, or had, the lease: this one must stop."""


class SupersededError(ChannelError):
    """A newer version of this run is already out."""


class Chunk(BaseModel):
    """Where a piece of the blob lies, and what it must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    nbytes: Annotated[int, Field(ge=1, le=CHUNK_BYTES)]
    xxh3_128: str


class Manifest(BaseModel):
    """The newest version of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    version: Annotated[int, Field(ge=0)]
    fencing: Annotated[int, Field(ge=1)]
    nbytes: Annotated[int, Field(ge=1)]
    chunks: list[Chunk]


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


class _Channel:
    """A connection to one run's keys, with bounded calls and errors that name the server."""

    def __init__(self, redis_url: str, run: str, timeout_s: float) -> None:
        self.run = run
        self._timeout_s = timeout_s
        retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=3)
        try:
            self._client: Any = redis.Redis.from_url(
                redis_url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=retry
            )
        except ValueError:  # its text may hold the URL, and the URL the password
            raise ChannelError("redis.url must be redis://[:PASSWORD@]HOST:PORT/DB, got something else") from None
        where = self._client.connection_pool.connection_kwargs
        self._address = where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _key(self, *parts: object) -> str:
        return ":".join(["onerec", self.run, *map(str, parts)])

    def _manifest(self) -> Manifest | None:
        with self._named():
            text = self._client.get(self._key("manifest"))
        try:
            return None if text is None else Manifest.model_validate_json(text)
        except ValidationError as error:
            raise self._error(f"{self._key('manifest')} is no manifest") from error

    def _error(self, text: str, kind: type[ChannelError] = ChannelError) -> ChannelError:
        return kind(f"Redis at {self._address}, run {self.run}: {text}")

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise self._error(str(error)) from error


class Publisher(_Channel):
    """The one writer of a run's parameter versions; for one thread.

    Raises:
        ChannelError: Redis does not answer, or another publisher still holds the lease after `LEASE_S` + timeout.
    """

    def __init__(self, redis_url: str, run: str, keep_s: int, timeout_s: float) -> None:
        super().__init__(redis_url, run, timeout_s)
        self.fencing = 0
        self._keep_s = keep_s
        self._token = secrets.token_hex(16)
        self._newest: Manifest | None = None
        self._old: dict[int, list[str]] = {}
        self._extended = time.monotonic()
        try:
            self._acquire(time.monotonic() + LEASE_S + timeout_s)
        except BaseException:
            super().close()
            raise

    def publish(self, version: int, blob: bytes) -> float:
        """Write a version and make it the newest; returns the seconds it took.

        Publishing the newest version again is allowed when the bytes are the same (Redis may have lost it).

        Raises:
            ChannelError: the lease is lost, ``version`` goes back or names other bytes, or Redis failed; readers then
                still see the version before.
        """
        if version < 0 or not blob:
            raise ValueError(f"version must be >= 0 and blob not empty, got {version} and {len(blob)} bytes")
        started = time.monotonic()
        self.renew()
        manifest, pieces = self._cut(version, blob)
        self._refuse_conflict(manifest)
        with self._named():
            for chunk, piece in zip(manifest.chunks, pieces, strict=True):
                self._client.set(chunk.key, piece, ex=self._keep_s)
            keys = [self._key("lease"), self._key("manifest"), self._key("notice")]
            self._renew_lease()  # the chunks may have taken long
            if self.fencing != manifest.fencing:  # Redis restarted empty meanwhile: the chunks are gone
                return self.publish(version, blob)
            if not self._client.eval(COMMIT, 3, *keys, self._token, manifest.model_dump_json(), self._keep_s, version):
                raise self._error("the publisher's lease is lost", LeaseLostError)
        if self._newest is not None and self._newest.version != version:
            self._old[self._newest.version] = [chunk.key for chunk in self._newest.chunks]
        self._newest, self._extended = manifest, time.monotonic()
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
                for key in (self._key("manifest"), *(chunk.key for chunk in self._newest.chunks)):
                    pipeline.expire(key, self._keep_s)
                pipeline.execute()
                self._extended = time.monotonic()
            self._delete_old()

    def manifest_missing(self) -> bool:
        """Whether no version is to be had (none published yet, or Redis restarted empty): then publish again."""
        with self._named():
            return not self._client.exists(self._key("manifest"))

    def used(self) -> dict[str, list[int]]:
        """The versions that each reader acknowledged, oldest first."""
        with self._named():
            readers = sorted(name.decode() for name in self._client.smembers(self._key("readers")))
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
            self.fencing = int(fencing)
        return bool(held)

    def _renew_lease(self) -> None:
        if not self._claim():
            raise self._error("the publisher's lease is lost: another publisher took it", LeaseLostError)

    def _cut(self, version: int, blob: bytes) -> tuple[Manifest, list[memoryview]]:
        whole = memoryview(blob)
        pieces = [whole[start : start + CHUNK_BYTES] for start in range(0, len(whole), CHUNK_BYTES)]
        chunks = [
            Chunk(
                key=self._key("chunk", version, self.fencing, number),
                nbytes=len(piece),
                xxh3_128=xxhash.xxh3_128_hexdigest(piece),
            )
            for number, piece in enumerate(pieces)
        ]
        return Manifest(run=self.run, version=version, fencing=self.fencing, nbytes=len(blob), chunks=chunks), pieces

    def _refuse_conflict(self, manifest: Manifest) -> None:
        newest = self._manifest() or self._newest
        if newest is None:
            return
        if newest.version > manifest.version:
            text = f"version {manifest.version} is older than {newest.version}: rolling back starts a new run"
            raise self._error(text, SupersededError)
        same = [chunk.xxh3_128 for chunk in newest.chunks] == [chunk.xxh3_128 for chunk in manifest.chunks]
        if newest.version == manifest.version and not same:
            raise self._error(f"version {manifest.version} was already published with other bytes")

    def _delete_old(self) -> None:
        """Delete the versions that every live reader has moved on from."""
        readers = self._client.smembers(self._key("readers")) if self._old else ()
        alive = [self._client.get(self._key("alive", reader.decode())) for reader in readers]
        held = [int(version) for version in alive if version is not None]
        for version in [old for old in self._old if all(old < other for other in held)]:
            self._client.delete(*self._old.pop(version))


class Follower(_Channel):
    """One reader of a run's parameter versions, for one thread. ``refused`` counts manifests not used.

    By reason: ``run`` (another run's), ``fencing`` (an older publisher's), ``version`` (goes back), ``manifest`` (does not
    validate), ``chunk`` (a chunk is missing, short or differs).
    """

    def __init__(self, redis_url: str, run: str, reader: str, timeout_s: float) -> None:
        super().__init__(redis_url, run, timeout_s)
        self.reader = reader
        self.refused: Counter[str] = Counter()
        self._fencing = 0
        self._version = -1
        self._acknowledged = -1
        self._last_refused: tuple[str, str] | None = None
        self._notices = self._client.pubsub(ignore_subscribe_messages=True)
        try:
            with self._named():
                self._client.sadd(self._key("readers"), reader)
                self._notices.subscribe(self._key("notice"))
            self._show_life()
        except BaseException:
            self.close()
            raise

    def fetch_newer(self, than: int) -> tuple[int, bytes] | None:
        """The newest version and its verified bytes if it is newer than ``than``; None if not, or if it is refused."""
        self._show_life()
        with self._named():
            text = self._client.get(self._key("manifest"))
        if text is None:
            return None
        manifest = self._accepted(text, than)
        if manifest is None or manifest.version <= than:
            return None
        blob = self._assemble(manifest)
        if blob is None:
            self._refuse("chunk", text)
            return None
        self._fencing, self._version = manifest.fencing, manifest.version
        return manifest.version, blob

    def acknowledge(self, version: int) -> None:
        """Tell the publisher that this reader now works with ``version``."""
        self._acknowledged = version
        used = self._key("used", self.reader)
        with self._named():
            pipeline = self._client.pipeline()
            pipeline.rpush(used, version)
            pipeline.ltrim(used, -USED_VERSIONS, -1)
            pipeline.sadd(self._key("readers"), self.reader)
            pipeline.set(self._key("alive", self.reader), version, ex=int(READER_S))
            pipeline.execute()

    def wait(self, timeout_s: float) -> bool:
        """Wait for a notice (all pending ones count as one); False after ``timeout_s``.

        Notices can be lost: look with `fetch_newer` either way.
        """
        deadline = time.monotonic() + timeout_s
        with self._named():
            while (left := deadline - time.monotonic()) > 0:
                if self._notices.get_message(timeout=left) is not None:
                    while self._notices.get_message(timeout=0.0) is not None:
                        pass
                    return True
        return False

    def close(self) -> None:
        """Stop being waited for, and close."""
        with suppress(redis.RedisError):
            self._client.delete(self._key("alive", self.reader))
        self._notices.close()
        super().close()

    def _show_life(self) -> None:
        """Refresh the sign of life, which carries the acknowledged version (-1: none yet, so keep all)."""
        key = self._key("alive", self.reader)
        with self._named():
            if not self._client.expire(key, int(READER_S)):
                self._client.set(key, self._acknowledged, ex=int(READER_S))

    def _accepted(self, text: bytes, than: int) -> Manifest | None:
        """The manifest unless it must be refused, which is counted."""
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError:
            self._refuse("manifest", text)
            return None
        if manifest.run != self.run:
            self._refuse("run", text)
        elif manifest.fencing < self._fencing:
            self._refuse("fencing", text)
        elif manifest.version < max(than, self._version):
            self._refuse("version", text)
        else:
            return manifest
        return None

    def _assemble(self, manifest: Manifest) -> bytes | None:
        if sum(chunk.nbytes for chunk in manifest.chunks) != manifest.nbytes:
            return None
        blob, end = bytearray(manifest.nbytes), 0
        for chunk in manifest.chunks:
            with self._named():
                piece = self._client.get(chunk.key)
            if piece is None or len(piece) != chunk.nbytes or xxhash.xxh3_128_hexdigest(piece) != chunk.xxh3_128:
                return None
            blob[end : end + chunk.nbytes] = piece
            end += chunk.nbytes
        return bytes(blob)

    def _refuse(self, reason: str, text: bytes) -> None:
        """Count a refusal, once for a manifest that is looked at again and again."""
        seen = (reason, xxhash.xxh3_128_hexdigest(text))
        if seen != self._last_refused:
            self.refused[reason] += 1
            self._last_refused = seen
