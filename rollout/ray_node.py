"""A Ray node of this process's own that ends with it: alone and on loopback, or in the cluster at ``RAY_ADDRESS``."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil

OBJECT_STORE_BYTES = 128 << 20
"""Groups are tens of kilobytes; this holds thousands."""
ADDRESS = "RAY_ADDRESS"
"""Variable that names a cluster's head as ``HOST:PORT``."""
CONNECT_S = 5.0
LEAVE_S = 40.0
"""A node that is told to end lets its work end for 30 s."""


class Guardian:
    """The process that ends Ray's processes when this one is killed; see `rollout.guardian`."""

    def __init__(self, temporary: str) -> None:
        command = [sys.executable, "-m", "rollout.guardian", temporary]
        # In a session of its own, so that a signal to the fleet's process group leaves it alive to clean up.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)

    def watch_children(self) -> None:
        """Put all present descendants of this process under guard."""
        assert self._process.stdin is not None
        for child in psutil.Process().children(recursive=True):
            if child.pid != self._process.pid:
                self._process.stdin.write(json.dumps([child.pid, child.create_time()]) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """Let the guardian clean up and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def prepare_environment() -> None:
    """Ray reads these when it is imported; its processes inherit them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # it would put two actors' lines together
    if not os.environ.get(ADDRESS):
        # Ray's name for "this machine only": all its servers then bind loopback, on Linux as well.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@contextmanager
def ray_node(cpus: float, gpus: float = 0.0) -> Iterator[None]:
    """Start Ray here with room for so much, or join the cluster at `ADDRESS`, which has the room; end all of it on leaving.

    Call `prepare_environment` before.

    Raises:
        OSError: nobody listens at the cluster's address.
    """
    import ray

    address = os.environ.get(ADDRESS, "")
    temporary = tempfile.mkdtemp(prefix="orr-")  # short: unix socket paths are limited to 107 bytes
    with ExitStack() as ending:
        guardian = Guardian(temporary)
        ending.callback(guardian.close)
        if address:
            ending.enter_context(_node_in_cluster(address))
        ending.callback(ray.shutdown)
        ray.init(**({"address": address} if address else _alone(cpus, gpus, temporary)), configure_logging=False)
        guardian.watch_children()
        yield


def _alone(cpus: float, gpus: float, temporary: str) -> dict[str, Any]:
    return {
        "num_cpus": math.ceil(cpus),
        "num_gpus": math.ceil(gpus),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "_temp_dir": temporary,
    }


@contextmanager
def _node_in_cluster(address: str) -> Iterator[None]:
    """Make this machine a node of a cluster: who hands out work must be on one. It takes no actors itself."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise OSError(f"no Ray cluster at {ADDRESS} {address}: {error}") from None
    room = ["--num-cpus", "0", "--num-gpus", "0", "--object-store-memory", str(OBJECT_STORE_BYTES)]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--address", address, *room, "--block"]
    node = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        node.terminate()
        try:
            node.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
