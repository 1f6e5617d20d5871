"""``python -m rollout.recommend --run-folder RUN``: serve users of a run on loopback until SIGTERM.

Reads RUN/settings.json, RUN/endpoints.json, RUN/index and RUN/log; keeps RUN/recommend. Writes RUN/ready/recommend.json
({"url", "pid", …}) once it answers, and removes it on the way out; lists are made from the first parameter version on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common.compute import compute_with
from common.endpoints import Endpoints
from common.http_service import run_service, serve
from common.settings import load_settings
from common.stream import StreamError
from rollout.recommend.app import create_app


def serve_users(run_folder: Path, port: int) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ValueError: the run folder lacks something or holds it damaged.
        StreamError: the broker cannot be reached or lacks the topic.
        OSError: the port is taken.
    """
    compute_with(threads=1)
    settings = load_settings(run_folder / "settings.json")
    serve(create_app(run_folder, Endpoints.read(run_folder), settings), run_folder, "recommend", port)


if __name__ == "__main__":
    sys.exit(
        run_service("rollout.recommend", "The recommend endpoint of a run.", serve_users, (ValueError, StreamError, OSError))
    )
