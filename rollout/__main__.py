"""``python -m rollout --run-folder RUN``: the rollout fleet of a run."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from common import probes
from common.process_log import start_log
from common.stream import StreamError
from rollout.ray_node import prepare_environment


def main() -> int:
    """Run the fleet; 0 after SIGTERM, 1 with one line in the log when it cannot go on."""
    parser = argparse.ArgumentParser(prog="python -m rollout", description="The rollout fleet of a run.")
    parser.add_argument("--run-folder", type=Path, required=True)
    probes.add_arguments(parser)
    given = parser.parse_args()
    prepare_environment()
    from rollout.fleet import FleetError, run_fleet  # imports Ray, which reads its environment then

    try:
        start_log("rollout", given.run_folder)
        run_fleet(given.run_folder, probes.serve(given.host, given.metrics_port))
    except (ValueError, OSError, StreamError, FleetError) as error:
        logging.getLogger("rollout").error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
