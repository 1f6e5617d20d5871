"""A connection to one run's keys on the message queue, with bounded calls and errors that name the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from pydantic import ValidationError
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from common.parameter_channel.manifest import Manifest

ENVELOPE = 32
"""Bytes around a value in a reply, at most: its length before it, the end of the line behind each."""


class ChannelError(RuntimeError):
    """The channel cannot be used as asked; names the Redis server (HOST:PORT) and the cause, never the password."""


class LeaseLostError(ChannelError):
    """Another publisher has, or had, the lease: this one must stop."""


class SupersededError(ChannelError):
    """A newer version of this run is already out."""


class Connection:
    """What publisher and followers have in common."""

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

    def _value(self, key: str, nbytes: int, memory: bytearray) -> memoryview | None:
        """GET ``nbytes`` into memory at hand, which must hold `ENVELOPE` more; None if there is no such value.

        The client library would copy them three times on the way, which takes longer than to receive them.
        """
        connection = self._client.connection_pool.get_connection()
        try:
            value: memoryview | None = connection.retry.call_with_retry(
                lambda: _value(connection, key, nbytes, memory), connection.disconnect
            )
        except BaseException:
            connection.disconnect()  # some of the reply may still come
            raise
        finally:
            self._client.connection_pool.release(connection)
        return value

    def _error(self, text: str, kind: type[ChannelError] = ChannelError) -> ChannelError:
        return kind(f"Redis at {self._address}, run {self.run}: {text}")

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise self._error(str(error)) from error


def _value(connection: Any, key: str, nbytes: int, memory: bytearray) -> memoryview | None:
    """As `Connection._value`, by the protocol: ``$LENGTH``, the value, each with the end of a line behind it."""
    connection.send_command("GET", key)
    reply, got = memoryview(memory), 0
    while (end := memory.find(b"\r\n", 0, got)) < 0:
        got += _receive(connection, reply[got:])
    told, first, last = bytes(reply[:end]), end + 2, end + 2 + nbytes
    if told != b"$%d" % nbytes:
        connection.disconnect()  # of a longer value more may come
        if told[:1] in b"$_":  # RESP3 says _ of what is not there
            return None
        raise redis.ConnectionError(f"got {told!r} for {key}")
    while got < last + 2:
        got += _receive(connection, reply[got:])
    return reply[first:last]


def _receive(connection: Any, into: memoryview) -> int:
    """Some bytes more; how many."""
    try:
        count: int = connection._sock.recv_into(into)  # the library itself has no call that reads into given memory
    except OSError as error:
        raise redis.ConnectionError(str(error)) from error
    if not count:
        raise redis.ConnectionError("the connection was closed")
    return count
