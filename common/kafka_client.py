"""Connections to Kafka: what every client of ours has in common, and errors that name the broker."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from common.access import access

MOST_TURN_S = 2.0
"""Longest that one broker is waited for before the next one is tried: a machine that is down does not answer at all."""


class StreamError(RuntimeError):
    """The stream cannot be used as asked; names the broker (HOST:PORT) and the cause."""


def client_settings(bootstrap: str, timeout_s: float) -> dict[str, Any]:
    """What every client shares; a request gets half the time, so that one retry fits."""
    return {
        "bootstrap_servers": bootstrap.split(","),
        "bootstrap_timeout_ms": to_ms(timeout_s),
        "request_timeout_ms": to_ms(timeout_s / 2),
        "reconnect_backoff_max_ms": 1000,
        **access().kafka_client(),
    }


@contextmanager
def admin_client(bootstrap: str, timeout_s: float) -> Iterator[Any]:
    """An admin client for as long as the block lasts; what goes wrong in it is told as a `StreamError`."""
    with named(bootstrap):
        await_connection(bootstrap, timeout_s)
        admin = KafkaAdminClient(**client_settings(bootstrap, timeout_s))
        try:
            yield admin
        finally:
            admin.close()


@contextmanager
def named(bootstrap: str) -> Iterator[None]:
    """Turn the client library's errors into a `StreamError` that names the broker."""
    try:
        yield
    except KafkaError as error:
        raise StreamError(f"Kafka at {bootstrap}: {error}") from error


def await_connection(bootstrap: str, timeout_s: float) -> None:
    """Wait until one of the brokers accepts a connection: the clients would say only that time ran out."""
    addresses = bootstrap.split(",")
    deadline, cause, turn_s = time.monotonic() + timeout_s, "", max(timeout_s / len(addresses) / 2, 0.1)
    while True:
        for address in addresses:
            host, separator, port = address.strip().rpartition(":")
            if not separator or not port.isdigit():
                raise StreamError(f"stream.bootstrap must be HOST:PORT[,HOST:PORT...], got {bootstrap!r}")
            try:
                with socket.create_connection((host.strip("[]"), int(port)), timeout=min(turn_s, MOST_TURN_S)):
                    return
            except OSError as error:
                cause = str(error)
        if time.monotonic() >= deadline:
            raise StreamError(f"Kafka at {bootstrap} did not answer within {timeout_s:g} s: {cause}")
        time.sleep(random.uniform(0.05, 0.2))


def partition_counts(admin: Any) -> dict[str, int]:
    """Topic -> number of partitions, of every topic there is."""
    return {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics()}


def to_ms(seconds: float) -> int:
    """Seconds as the client library takes them: whole milliseconds, at least one."""
    return max(int(seconds * 1000), 1)
