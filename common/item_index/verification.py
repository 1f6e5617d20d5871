"""Verifying snapshots in a process of its own: hashing gigabytes beside a reader takes the interpreter lock from it.

Consumes: paths of snapshots on stdin. Produces: one line of JSON each, the fault or null. Waits for: the next path.
Unblocked by: `Verifier`, or the end of its process, which closes the pipe.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

from common.item_index.snapshot import verify_snapshot

TIMEOUT_S = 600.0
"""Enough to read 60 GB at 100 MB/s."""
END_WITHIN_S = 10.0
CORE_SHARE = 0.25
"""Where a container may use so much of its cores and no more, a process that takes all it can get has every thread of the
container stopped, tens of milliseconds of every 100. A snapshot of 4 GB is verified in 5 s."""
NICENESS = 5
"""Readers on the same cores come first, yet on a busy machine a third of a core's share is left."""
_CHILD = f"from {__name__} import main; main()"


class Verifier:
    """A process that compares checksums when it is asked to, one snapshot at a time. Safe to call from several threads.

    It is started once, not for each snapshot: until the kernel has read a new program from disk (4 to 8 ms when it is not
    cached), `subprocess` holds the interpreter lock and every reader waits.
    """

    def __init__(self) -> None:
        self._process = _start()
        self._lock = threading.Lock()

    def __call__(self, snapshot: Path) -> None:
        """Wait until every checksum of a snapshot has been compared.

        Raises:
            ValueError: what `verify_snapshot` says, or there was no answer in `TIMEOUT_S`.
        """
        with self._lock:
            if self._process.poll() is not None:
                self._end()
                self._process = _start()
            fault = self._ask(snapshot)
        if fault is not None:
            raise ValueError(fault)

    def close(self) -> None:
        """End the process."""
        self._end()

    def _ask(self, snapshot: Path) -> str | None:
        asks, answers = self._process.stdin, self._process.stdout
        assert asks is not None
        assert answers is not None
        try:
            asks.write(f"{json.dumps(str(snapshot))}\n".encode())
            asks.flush()
        except BrokenPipeError:
            return f"{snapshot} could not be verified: the process that verifies ended"
        waiting = select.poll()  # select itself ends at file 1023
        waiting.register(answers, select.POLLIN)
        if not waiting.poll(1000 * TIMEOUT_S):
            self._process.kill()
            self._process.wait()
            return f"{snapshot} could not be verified within {TIMEOUT_S:.0f} s"
        line = answers.readline()
        if not line:
            return f"{snapshot} could not be verified: the process that verifies ended"
        fault: str | None = json.loads(line)
        return fault

    def _end(self) -> None:
        """Close its pipes, upon which it ends, and wait for that."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _start() -> subprocess.Popen[bytes]:
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}  # as here, wherever this process found its packages
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD], env=os.environ | paths, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def main() -> None:
    """What the process runs until its stdin ends."""
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt ends the process that asks, and that ends this one
    for line in sys.stdin:
        fault: str | None = None
        try:
            verify_snapshot(Path(json.loads(line)), CORE_SHARE)
        except (ValueError, OSError) as error:
            fault = str(error)
        sys.stdout.write(f"{json.dumps(fault)}\n")
        sys.stdout.flush()
