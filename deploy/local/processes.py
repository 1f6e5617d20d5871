"""Child processes of the local stack: they die with their parent, log to a file, and stop within a bound."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LEASH = Path(__file__).with_name("leash.py")
TAIL_BYTES = 4000
POLL_S = 0.02


class StackError(RuntimeError):
    """A part of the local stack did not start, died, or did not get ready in time."""


@dataclass(frozen=True)
class Child:
    """A running program in its own session; `terminate` must be called in the end, also when it has exited."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status (negative: the signal that killed it), or None while it runs.

        The process is not reaped here, so that its id and group id stay valid until `terminate`.
        """
        if self.process.returncode is not None:
            return self.process.returncode
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    @property
    def alive(self) -> bool:
        """Whether the program still runs."""
        return self.returncode is None

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the program's end; its exit status, or None when it still runs after ``timeout_s``."""
        if self.process.returncode is None:
            handle = os.pidfd_open(self.pid)
            try:
                poller = select.poll()
                poller.register(handle, select.POLLIN)
                poller.poll(max(timeout_s, 0.0) * 1000)
            finally:
                os.close(handle)
        return self.returncode

    def terminate(self, timeout_s: float) -> int:
        """SIGTERM to the program, wait up to ``timeout_s``, then SIGKILL to what is left of its group; exit status."""
        if self.process.returncode is None:
            os.kill(self.pid, signal.SIGTERM)  # not through Popen, which would reap an ended process first
            self.wait(timeout_s)
            os.killpg(self.pid, signal.SIGKILL)
        return self.process.wait()

    def log_tail(self) -> str:
        """The last lines of its log."""
        with self.log_path.open("rb") as log:
            log.seek(max(self.log_path.stat().st_size - TAIL_BYTES, 0))
            return log.read().decode(errors="replace").strip()


def spawn(argv: Sequence[str], log_path: Path, env: Mapping[str, str] | None, name: str) -> Child:
    """Start a program whose stdout and stderr are appended to ``log_path`` (0600).

    It gets our environment plus ``env``, no stdin, and its own session, so that Ctrl-C in the terminal reaches only
    us. The kernel kills it when the *thread* that called `spawn` ends: call it from a thread that lives long enough.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *argv]
    with open(os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as log:
        process = subprocess.Popen(
            leash,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    return Child(name, process, log_path)


def wait_until(predicate: Callable[[], bool], timeout_s: float, what: str, children: Sequence[Child]) -> None:
    """Wait until ``predicate`` holds.

    Raises:
        StackError: one of ``children`` ended, or ``timeout_s`` passed; names it and shows the end of the logs.
    """
    deadline = time.monotonic() + timeout_s
    while not predicate():
        for child in children:
            if not child.alive:
                raise StackError(
                    f"{child.name} ended with status {child.returncode} while waiting for {what}{_shown(child)}"
                )
        if time.monotonic() > deadline:
            raise StackError(f"gave up waiting for {what} after {timeout_s:g} s{''.join(map(_shown, children))}")
        time.sleep(POLL_S)


def free_port() -> int:
    """A loopback TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _shown(child: Child) -> str:
    return f"\n--- end of {child.log_path}\n{child.log_tail() or '(empty)'}"
