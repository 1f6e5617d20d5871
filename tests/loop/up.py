"""`onerec up` as a process of a test's own, all of whose processes can be found again."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.local.run_folder import RunFolder
from deploy.local.statistics import Line, Tail

MARK = "LOOP_TEST_MARK"
PATIENCE_S = 200.0
UNTRAINED = ("--set", "pretrain.history_epochs=0", "--set", "pretrain.warm_epochs=0")


@dataclass
class Up:
    """A running `onerec up`; all its processes carry a mark in their environment."""

    process: subprocess.Popen[bytes]
    run: RunFolder
    mark: str
    output: Path

    @staticmethod
    def start(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> Up:
        mark = secrets.token_hex(8)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ONEREC_")}
        command = [sys.executable, "-m", "deploy.cli.main", "up", "--profile", "test", "--run-folder", str(folder / "run")]
        output = folder / "output.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*command, *arguments], stdout=file, stderr=subprocess.STDOUT, env=clean | (environment or {}) | {MARK: mark}
            )
        return Up(process, RunFolder(folder / "run"), mark, output)

    def until(self, ready: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + patience_s
        while not ready():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.02)

    def stays(self, seconds: float) -> None:
        """So long it must go on."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        raise AssertionError(self.output.read_text())

    def ended(self) -> int:
        return self.process.wait(PATIENCE_S)

    def survivors(self, within_s: float = 15.0) -> list[str]:
        """Marked processes that are still there after a while."""
        deadline = time.monotonic() + within_s
        while (left := self._marked()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def processes(self) -> list[psutil.Process]:
        """All that belong to it and run."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                continue
        return found

    def _marked(self) -> list[str]:
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                found.append(" ".join(process.cmdline()))
        return found


def read_lines(path: Path) -> list[Line]:
    """The whole lines of a JSON-lines file; a last line still being written is left out, no file is no lines."""
    return list(Tail(path).lines())
