"""Ends the Ray processes of a fleet that was killed: ``python -m rollout.guardian TEMP_DIR < pipe from the fleet``.

Ray's servers and workers notice that their driver is gone, but its node agents linger for a minute to report it.
The guardian reads ``[pid, create time]`` lines until the pipe closes, which happens however the fleet ends, then kills
those that still run and removes Ray's temporary folder. The create time keeps it from ever hitting a reused pid.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys

import psutil


def main() -> None:
    """Wait for the pipe to close, then clean up."""
    watched: dict[int, float] = {}
    for line in sys.stdin:
        pid, created = json.loads(line)
        watched[pid] = created
    for pid, created in watched.items():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.create_time() == created:
                process.kill()
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
