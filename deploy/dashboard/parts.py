"""Which parts a run has, and whether each is alive: by its process on this machine, and by whether it answers."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import psutil
from pydantic import BaseModel

from common.settings import Settings
from deploy.local.run_folder import RunFolder, read_json

CONNECT_S = 1.0
State = Literal["ready", "starting", "silent", "down", "ended", "unknown"]
"""``silent``: it does not answer though it should; ``down``: its process has died; ``ended``: it is not needed any more."""
WORKERS = ("trainer", "rollout", "reward", "learner", "tokenizer", "recommend")
WRONG: tuple[State, ...] = ("silent", "down")


class Part(BaseModel):
    """One part of the loop."""

    name: str
    state: State
    pid: int | None = None
    restarts: int | None = None


def expected(settings: Settings) -> list[str]:
    """The parts of a run with these settings, in the order in which sessions meet them."""
    wanted = {"learner": settings.reward.online.on, "recommend": settings.recommend.on}
    return [name for name in ("kafka", *WORKERS, "redis") if wanted.get(name, True)]


def metrics_endpoints(run: RunFolder, settings: Settings) -> dict[str, str]:
    """Name of a worker (of the trainer's other ranks, too) -> address of its metrics, by the settings or its ready file."""
    told: dict[str, str | None] = {
        file.stem: read_json(file).get("metrics") for file in sorted((run.path / "ready").glob("*.json"))
    }
    told |= settings.dashboard.metrics
    return {name: url for name, url in told.items() if url and name.partition("-")[0] in WORKERS}


class PartsLook:
    """Finds the state of each part. Where Redis is, a process knows by its environment only: often its id must do."""

    def __init__(self, run: RunFolder, settings: Settings) -> None:
        self.run, self.settings = run, settings

    def look(self, answered: frozenset[str], failing: bool, streaming: bool) -> list[Part]:
        """All parts; ``answered`` are the workers whose metrics could be had, ``failing`` is a Kafka that did not answer."""
        pids: Mapping[str, int] = read_json(self.run.processes)
        restarts: Mapping[str, int] = read_json(self.run.stack).get("restarts", {})
        parts = []
        for name in expected(self.settings):
            pid = pids.get(name)
            state = self._state(name, pid, answered) if streaming else "ended"
            if name == "kafka" and state == "ready" and failing:  # it accepts connections, but hangs
                state = "silent"
            parts.append(Part(name=name, state=state, pid=pid, restarts=restarts.get(name)))
        return parts

    def _state(self, name: str, pid: int | None, answered: frozenset[str]) -> State:
        if pid is not None and not alive(pid):
            return "down"
        if name in ("kafka", "redis"):
            return self._broker(name, pid)
        if name in answered:
            return "ready"
        ready: dict[str, Any] = read_json(self.run.ready_file(name))
        if not ready:
            return "starting" if pid is not None else "unknown"
        # A part that was started again has left the ready file of the process before it, until it is ready itself.
        return "starting" if pid is not None and not _is_of(ready["pid"], pid) else "silent"

    def _broker(self, name: str, pid: int | None) -> State:
        kafka: str = read_json(self.run.endpoints).get("kafka", self.settings.stream.bootstrap)
        redis = urlsplit(self.settings.redis.url.get_secret_value())
        address = kafka if name == "kafka" else redis.netloc.rpartition("@")[2]
        if not address:
            return "unknown" if pid is None else "ready"
        return "ready" if any(map(_accepts, address.split(","))) else "silent"


def alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def _is_of(pid: int, parent: int) -> bool:
    """Whether a process is another or a child of it: ranks of the trainer are torchrun's."""
    try:
        return pid == parent or parent in (one.pid for one in psutil.Process(pid).parents())
    except psutil.NoSuchProcess:
        return False


def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S):
            return True
    except (OSError, ValueError):
        return False
