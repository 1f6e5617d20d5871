"""The processes of the loop on one machine: started in order, watched, restarted where that is safe, stopped in order."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from common.access import PREFIX, access
from common.settings import Settings
from common.stream import create_topics
from deploy.local.embedded import start_kafka, start_redis
from deploy.local.processes import Child, StackError, spawn, wait_until
from deploy.local.run_folder import RunFolder, read_json, write_json
from deploy.local.torchrun import ENVIRONMENT, on_ranks
from trainer.checkpoint import STATE, committed

READY_S = 240.0
PAGE_S = 30.0
MAX_RESTARTS = 5
RESTARTS_S = 600.0
"""A part that dies more than `MAX_RESTARTS` times within this time will not be mended by starting it once more."""
TICK_S = 0.5
THREADS_VARIABLE = "ONEREC_PREPARE_THREADS"
"""Threads of preparation, for all that is done at a time."""
STOP_ORDER = ("replay", "recommend", "trainer", "learner", "tokenizer", "rollout", "reward", "redis", "kafka", "dashboard")
STOP_S = {"trainer": 60.0, "learner": 60.0, "tokenizer": 60.0, "rollout": 30.0}
WORKERS = {
    "trainer": "trainer",
    "learner": "reward_service.online",
    "tokenizer": "tokenizer_job",
    "rollout": "rollout",
    "recommend": "rollout.recommend",
}
"""Workers that need nothing but the run folder, and the modules they run."""
SPARE = ("dashboard",)
"""Parts without which the loop runs as well: one that dies too often is left alone."""
RESTARTED = ("trainer", "learner", "tokenizer", "rollout", "reward", "recommend", "redis", *SPARE)
"""Parts that go on where they were when they are started again, an empty Redis included, which the trainer fills. Anything
else that dies ends the run: the embedded Kafka, because with it the log is gone, and the replay."""


class Stack:
    """The run's child processes. Use it as a context manager: leaving it stops everything, however it is left.

    Must be entered in the main thread, with whose end the kernel kills the children.
    """

    def __init__(self, run: RunFolder, settings: Settings, speed: float) -> None:
        self.run, self.settings, self.speed = run, settings, speed
        self.children: dict[str, Child] = {}
        self.restarts: Counter[str] = Counter()
        self._restarted_at: dict[str, list[float]] = {}
        self.kafka = settings.stream.bootstrap
        self.redis_url = settings.redis.url.get_secret_value()
        self._commands: dict[str, list[str]] = {}
        self._log_key = access().log_key.get_secret_value() or secrets.token_hex(16)

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start_brokers(self) -> None:
        """Start the embedded Kafka and Redis where no existing ones were given, and create the run's topics."""
        if not self.kafka:
            broker = start_kafka(self.run.path / "kafka", self.run.log_file("kafka"))
            self.children["kafka"], self.kafka = broker.child, broker.address
        if not self.redis_url:
            broker = start_redis(self.run.path / "redis", self.run.log_file("redis"))
            self.children["redis"], self.redis_url = broker.child, broker.address
            self._commands["redis"] = broker.command
        self._note()

    def start_workers(self) -> None:
        """Start reward service, trainer and fleet, and wait until all are ready.

        Raises:
            StackError: one of them ended, or was not ready in time; shows the end of its log.
        """
        stream, name = self.settings.stream, f"run-{secrets.token_hex(4)}"
        prefix = f"{stream.prefix}.{name}"
        create_topics(self.kafka, prefix, stream.partitions, stream.timeout_s, replayed=True)
        reward = self._start_reward()
        endpoints = {"run": name, "kafka": self.kafka, "prefix": prefix, "reward": reward}
        write_json(self.run.endpoints, endpoints)
        wanted = {"learner": self.settings.reward.online.on, "recommend": self.settings.recommend.on}
        workers = {name: module for name, module in WORKERS.items() if wanted.get(name, True)}
        for worker, module in workers.items():
            command = [sys.executable, "-m", module, "--run-folder", str(self.run.path)]
            self._start(worker, on_ranks(command, self.settings.trainer.ranks) if worker == "trainer" else command)
        ready = [self.run.ready_file(worker) for worker in workers]
        children = [self.children[name] for name in (*workers, "reward")]
        wait_until(lambda: all(file.exists() for file in ready), READY_S, ", ".join(workers), children)
        if "recommend" in workers:
            self._keep_address("recommend")

    def start_replay(self) -> None:
        """Put the log's stream days on Kafka."""
        command = [sys.executable, "-m", "deploy.cli.main", "replay", str(self.run.log), "--speed", f"{self.speed:g}"]
        self._start("replay", [*command, "--run-folder", str(self.run.path)])

    def start_dashboard(self) -> None:
        """Start the web page of the run; `dashboard_address` tells where it is."""
        command = [sys.executable, "-m", "deploy.cli.main", "dashboard", "--run-folder", str(self.run.path)]
        self._start("dashboard", command)

    def dashboard_address(self) -> str:
        """The address of the web page, once it answers.

        Raises:
            StackError: it ended, or was not ready in time.
        """
        wait_until(self.run.ready_file("dashboard").exists, PAGE_S, "the web page", [self.children["dashboard"]])
        return self._keep_address("dashboard")

    def watch(self, on_tick: Callable[[], None]) -> None:
        """Watch the processes until the trainer has consumed the finite log and ends by itself. One that was told to stop
        before is started again.

        Raises:
            StackError: a process ended that must not, or one was restarted too often.
        """
        while True:
            on_tick()
            for name, child in list(self.children.items()):
                code = child.returncode
                if code is None or (name == "replay" and code == 0):
                    continue
                if name == "trainer" and code == 0 and self._log_is_consumed():
                    return
                self._ended(name, child, code)
            self.children["trainer"].wait(TICK_S)

    def stop_loop(self) -> None:
        """Stop all processes of the loop, readers of a stream before what they read from; the web page goes on."""
        self._stop([name for name in STOP_ORDER if name not in SPARE])

    def stop(self) -> None:
        """Stop all processes; leaves none running."""
        self._stop(STOP_ORDER)

    def _stop(self, names: Sequence[str]) -> None:
        for name in names:
            child = self.children.pop(name, None)
            if child is not None:
                child.terminate(STOP_S.get(name, 10.0))
        self._note()

    def _log_is_consumed(self) -> bool:
        """Whether the trainer has come to the log's end. It ends well, too, when somebody tells it to stop."""
        told = read_json(self.run.replay)
        if not told:  # the log has not ended
            return False
        newest = self.run.checkpoints / f"{max(committed(self.run.checkpoints), default=0):08d}"
        positions = read_json(newest / STATE).get("sessions", {})
        return all(positions.get(partition, 0) > last for partition, last in told["ends"].items())

    def _start_reward(self) -> str:
        """Start the reward service on a free port and wait for it; its address."""
        ready = self.run.ready_file("reward")
        command = [sys.executable, "-m", "reward_service", "--run-folder", str(self.run.path)]
        self._start("reward", command)
        wait_until(ready.exists, READY_S, "the reward service", [self.children["reward"]])
        return self._keep_address("reward")

    def _keep_address(self, service: str) -> str:
        """The address of a service that is ready; started again, it has the same."""
        url: str = read_json(self.run.ready_file(service))["url"]
        self._commands[service] = [*self._commands[service], "--port", url.rpartition(":")[2]]
        return url

    def _start(self, name: str, command: list[str]) -> None:
        self._commands[name] = command
        self.children[name] = spawn(command, self.run.log_file(name), self._environment(), name)
        self._note()

    def _environment(self) -> dict[str, str]:
        one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        return one | ENVIRONMENT | {"ONEREC_REDIS__URL": self.redis_url, f"{PREFIX}LOG_KEY": self._log_key}

    def _ended(self, name: str, child: Child, code: int) -> None:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        now = time.monotonic()
        recent = [at for at in self._restarted_at.get(name, []) if now - at < RESTARTS_S]
        if name in SPARE and len(recent) >= MAX_RESTARTS:
            self.children.pop(name).terminate(1.0)
            return
        if name not in RESTARTED or len(recent) >= MAX_RESTARTS:
            again = f" after {len(recent)} restarts" if recent else ""
            raise StackError(f"{name} {how}{again}\n--- end of {child.log_path}\n{child.log_tail() or '(empty)'}")
        child.terminate(1.0)  # reaps it, and ends what it may have left
        self.restarts[name] += 1
        self._restarted_at[name] = [*recent, now]
        self._start(name, self._commands[name])

    def _note(self) -> None:
        """Keep process ids, restarts and start times where the report and a person can read them."""
        write_json(self.run.processes, {name: child.pid for name, child in self.children.items()})
        restarts = {name: self.restarts[name] for name in RESTARTED if name in self._commands}
        write_json(self.run.stack, {"restarts": restarts})


def run_lanes(run: RunFolder, lanes: list[list[str]], on_line: Callable[[dict[str, str]], None]) -> None:
    """Run preparation steps as child processes: lanes beside each other, the steps of a lane one after the other.

    Args:
        run: where they work.
        lanes: step names of `deploy.local.prepare`. Several lanes share the cores evenly: those that this process may
            use, or as many as `THREADS_VARIABLE` says, since a container's limit is no such restriction.
        on_line: called with each running step's newest line of progress.

    Raises:
        StackError: a step failed; shows the end of its log.
    """
    threads = max(1, _cores() // len(lanes))
    waiting = [list(lane) for lane in lanes]
    running: dict[int, Child] = {}
    try:
        while any(waiting) or running:
            for number, lane in enumerate(waiting):
                if lane and number not in running:
                    running[number] = _spawn_step(run, lane.pop(0), threads)
            for number, child in list(running.items()):
                if not child.alive:
                    _finish_step(child)
                    del running[number]
            on_line({child.name: last_line(child.log_path) for child in running.values()})
            time.sleep(0.05)
    finally:
        for child in running.values():
            child.terminate(0.5)


def _cores() -> int:
    told = os.environ.get(THREADS_VARIABLE, "")
    return int(told) if told.isascii() and told.isdigit() else len(os.sched_getaffinity(0))


def _spawn_step(run: RunFolder, step: str, threads: int) -> Child:
    command = [sys.executable, "-m", "deploy.local.prepare", step]
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    arguments = ["--run-folder", str(run.path), "--threads", str(threads)]
    return spawn([*command, *arguments], run.log_file(f"prepare-{step}"), environment, step)


def _finish_step(child: Child) -> None:
    code = child.terminate(1.0)
    if code:
        raise StackError(f"step {child.name} failed with status {code}\n--- end of {child.log_path}\n{child.log_tail()}")


def last_line(path: Path) -> str:
    """The last whole line of a log, short enough for one row of a terminal."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 500, 0))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:110] if lines else "starting"
