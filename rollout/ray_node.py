"""A Ray node of this process's own, on loopback, that ends with it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

OBJECT_STORE_BYTES = 128 << 20
"""Groups are tens of kilobytes; this holds thousands."""


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
    # Ray's name for "this machine only": all its servers then bind loopback, on Linux as well.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@contextmanager
def ray_node(cpus: float) -> Iterator[None]:
    """Start Ray here with room for ``cpus``, and end all of it on leaving. Call `prepare_environment` before."""
    import ray

    temporary = tempfile.mkdtemp(prefix="orr-")  # short: unix socket paths are limited to 107 bytes
    guardian = Guardian(temporary)
    try:
        ray.init(
            num_cpus=math.ceil(cpus),
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=temporary,
            configure_logging=False,
        )
        guardian.watch_children()
        yield
    finally:
        ray.shutdown()
        guardian.close()
