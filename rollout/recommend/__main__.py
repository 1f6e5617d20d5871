"""``python -m rollout.recommend --run-folder RUN``: serve users of a run on loopback until SIGTERM.

Reads RUN/settings.json, RUN/endpoints.json, RUN/index and RUN/log; keeps RUN/recommend. Writes RUN/ready/recommend.json
({"url", "pid", …}) once it answers, and removes it on the way out; lists are made from the first parameter version on.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from threading import Event

from common.compute import compute_with
from common.endpoints import Endpoints
from common.http_service import run_service, serve
from common.settings import load_settings
from common.stream import StreamError
from rollout.recommend.app import create_app

ERRORS = (ValueError, RuntimeError, StreamError, OSError)


def serve_users(run_folder: Path, address: tuple[str, int]) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ValueError: the run folder lacks something or holds it damaged.
        StreamError: the broker cannot be reached or lacks the topic.
        OSError: the port is taken.
        RuntimeError: nothing can be generated any more.
    """
    compute_with(threads=1)
    settings = load_settings(run_folder / "settings.json")
    failed = Event()

    def end() -> None:
        failed.set()
        os.kill(os.getpid(), signal.SIGTERM)

    serve(create_app(run_folder, Endpoints.read(run_folder), settings, end), run_folder, "recommend", address)
    if failed.is_set():
        raise RuntimeError("lists could no longer be generated; the log has the cause")


if __name__ == "__main__":
    sys.exit(run_service("rollout.recommend", "The recommend endpoint of a run.", serve_users, ERRORS))
