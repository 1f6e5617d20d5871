"""Pauses of a virtual machine: stretches in which its host did not run a core, witnessed by a process on that core (Linux).

``python -m benchmarks.pauses CORE`` wakes every millisecond, before everything else on its core. If it wakes late, either
something on this machine held the core, which the kernel counts as the witness's time in the run queue, or the core did not
run at all: only that is a pause. For each line on stdin it answers with all pauses so far; it ends with stdin.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

PERIOD_S = 0.001
SHORTEST_S = 0.002
"""Less is no pause: an interrupt, or a timer that is a little late."""
PRIORITY = 50
ANSWER_WITHIN_S = 10.0
Pause = tuple[float, float]
"""From when to when, by `time.perf_counter`, which all processes share."""


class Witnesses:
    """A witness on every core that this process may use."""

    def __init__(self) -> None:
        self._processes = {core: _start(core) for core in sorted(os.sched_getaffinity(0))}

    def __enter__(self) -> Witnesses:
        self.pauses()  # they are at work
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes.values():
            with process:
                _pipe(process.stdin).close()

    def pauses(self) -> dict[int, list[Pause]]:
        """All pauses so far, by core.

        Raises:
            RuntimeError: a witness gives no answer.
        """
        found = {}
        for core, process in self._processes.items():
            answers = _pipe(process.stdout)
            _pipe(process.stdin).write(b"\n")
            _pipe(process.stdin).flush()
            line = answers.readline() if select.select([answers], [], [], ANSWER_WITHIN_S)[0] else b""
            if not line:
                raise RuntimeError(f"the witness on core {core} gives no answer")
            found[core] = [(float(began), float(ended)) for began, ended in json.loads(line)]
        return found


def taken(began: float, ended: float, pauses: Iterable[Pause]) -> float:
    """Seconds between two times that lie in at least one of the pauses, which may overlap."""
    total, reached = 0.0, began
    for start, end in sorted(pauses):
        start, end = max(start, reached), min(end, ended)
        if end > start:
            total, reached = total + end - start, end
    return total


def _start(core: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", __name__, str(core)]
    root = Path(__file__).parents[1]
    return subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def main(core: int) -> None:
    """Witness until stdin ends."""
    os.sched_setaffinity(0, {core})
    with suppress(PermissionError):  # then it wakes late more often, by time in the run queue, which is no pause
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    pauses: list[Pause] = []
    woke, queued = time.perf_counter(), _queued_s()
    while True:
        time.sleep(PERIOD_S)
        now, queued_now = time.perf_counter(), _queued_s()
        paused = now - woke - PERIOD_S - (queued_now - queued)
        if paused >= SHORTEST_S:
            pauses.append((now - paused, now))
        woke, queued = now, queued_now  # not later: the core may also be paused while this process has it
        if select.select([sys.stdin], [], [], 0)[0]:
            if not sys.stdin.readline():
                return
            sys.stdout.write(json.dumps(pauses) + "\n")
            sys.stdout.flush()
            woke, queued = time.perf_counter(), _queued_s()


def _queued_s() -> float:
    with open("/proc/self/schedstat", "rb") as file:
        return int(file.read().split()[1]) / 1e9


if __name__ == "__main__":
    main(int(sys.argv[1]))
