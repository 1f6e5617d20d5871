"""``python -m reward_service --run-folder RUN``: serve the run's preference model on loopback until SIGTERM.

Reads RUN/settings.json, RUN/reward and RUN/index. Writes RUN/ready/reward.json ({"url", "pid"}) once it answers, and
removes it on the way out.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from common.compute import compute_with
from common.settings import load_settings
from common.worker import prefer_latency
from reward_service.app import create_app
from reward_service.rewards import Rewards


class ReadyServer(uvicorn.Server):
    """A server that announces itself once its sockets accept requests."""

    def __init__(self, config: uvicorn.Config, url: str, ready_file: Path) -> None:
        super().__init__(config)
        self.url, self.ready_file = url, ready_file

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start (which includes the warm-up), then write the ready file."""
        await super().startup(sockets)
        prefer_latency()
        self.ready_file.parent.mkdir(exist_ok=True)
        temporary = self.ready_file.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"url": self.url, "pid": os.getpid()}))
        temporary.replace(self.ready_file)


def serve(run_folder: Path, port: int) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight get five seconds to finish.

    Raises:
        ValueError: the run folder has no usable model or item index.
        OSError: the port is taken.
    """
    compute_with(threads=1)
    rewards = Rewards(load_settings(run_folder / "settings.json").reward)
    app = create_app(run_folder / "reward", run_folder / "index", rewards)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    ready_file = run_folder / "ready" / "reward.json"
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    server = ReadyServer(config, url, ready_file)
    # uvicorn raises the signal again after its clean stop; without these that would end the process by signal
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    try:
        server.run(sockets=[listener])
    finally:
        ready_file.unlink(missing_ok=True)


def main() -> int:
    """Parse the command line and serve; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m reward_service", description="Serve the preference model of a run.")
    parser.add_argument("--run-folder", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port (default)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        serve(arguments.run_folder, arguments.port)
    except (ValueError, OSError) as error:
        print(f"reward_service: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
