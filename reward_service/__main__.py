"""``python -m reward_service --run-folder RUN``: serve the run's preference model on loopback until SIGTERM.

Reads RUN/settings.json, RUN/reward and RUN/index. Writes RUN/ready/reward.json ({"url", "pid", …}) once it answers, and
removes it on the way out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common.compute import compute_with
from common.http_service import run_service, serve
from common.settings import load_settings
from reward_service.app import create_app
from reward_service.rewards import Rewards


def serve_rewards(run_folder: Path, address: tuple[str, int]) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ValueError: the run folder has no usable model or item index.
        OSError: the port is taken.
    """
    compute_with(threads=1)
    rewards = Rewards(load_settings(run_folder / "settings.json").reward)
    serve(create_app(run_folder / "reward", run_folder / "index", rewards), run_folder, "reward", address)


if __name__ == "__main__":
    sys.exit(run_service("reward_service", "Serve the preference model of a run.", serve_rewards, (ValueError, OSError)))
