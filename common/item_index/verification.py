"""Verifying a snapshot in a process of its own: hashing gigabytes beside a reader takes the interpreter lock from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from common.item_index.snapshot import verify_snapshot

TIMEOUT_S = 600.0
"""Enough to read 60 GB at 100 MB/s."""
NICENESS = 5
"""Readers on the same cores come first, yet on a busy machine a third of a core's share is left."""
_CHILD = f"import sys; from {__name__} import main; sys.exit(main(sys.argv[1]))"


def verify_apart(snapshot: Path) -> None:
    """Wait until another process has compared every checksum of a snapshot.

    Raises:
        ValueError: what `verify_snapshot` says, or it could not be verified in `TIMEOUT_S`.
    """
    command = ["nice", "-n", str(NICENESS), sys.executable, "-c", _CHILD, str(snapshot)]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}  # as here, wherever this process found its packages
    try:
        done = subprocess.run(
            command, env=os.environ | paths, check=False, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"{snapshot} could not be verified within {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise ValueError(done.stderr.strip() or f"verifying {snapshot} ended with status {done.returncode}")


def main(snapshot: str) -> int:
    """What the process runs: the exit status, 1 with the fault on stderr."""
    try:
        verify_snapshot(Path(snapshot))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
