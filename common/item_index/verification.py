"""Verifying snapshots in a process of its own: hashing gigabytes beside a reader takes the interpreter lock from it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from common.child_process import ChildError, ChildProcess, answer_questions
from common.item_index.snapshot import verify_snapshot

TIMEOUT_S = 600.0
"""Enough to read 60 GB at 100 MB/s."""
CORE_SHARE = 0.25
"""Where a container may use so much of its cores and no more, a process that takes all it can get has every thread of the
container stopped, tens of milliseconds of every 100. A snapshot of 4 GB is verified in 5 s."""
NICENESS = 5
"""Readers on the same cores come first, yet on a busy machine a third of a core's share is left."""


class Verifier:
    """A process that compares checksums when it is asked to, one snapshot at a time. Safe to call from several threads.

    It is started once, not for each snapshot: until the kernel has read a new program from disk (4 to 8 ms when it is not
    cached), `subprocess` holds the interpreter lock and every reader waits.
    """

    def __init__(self) -> None:
        self._process = ChildProcess(__name__)
        self._lock = threading.Lock()

    def __call__(self, snapshot: Path) -> None:
        """Wait until every checksum of a snapshot has been compared.

        Raises:
            ValueError: what `verify_snapshot` says.
            OSError: it could not be read, or there was no answer in `TIMEOUT_S`.
        """
        try:
            with self._lock:
                fault: ValueError | OSError | None = self._process.ask(snapshot, TIMEOUT_S)
        except ChildError as error:
            raise OSError(f"{snapshot} could not be verified: {error}") from None
        if fault is not None:
            raise fault

    def close(self) -> None:
        """End the process."""
        self._process.close()


def main() -> None:
    """What the process runs."""
    os.nice(NICENESS)
    answer_questions(_fault)


def _fault(snapshot: Path) -> ValueError | OSError | None:
    try:
        verify_snapshot(snapshot, CORE_SHARE)
    except (ValueError, OSError) as error:
        return error
    return None
