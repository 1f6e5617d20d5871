"""``python -m rollout --run-folder RUN``: the rollout fleet of a run."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from common import probes
from common.stream import StreamError
from rollout.ray_node import prepare_environment


def main() -> int:
    """Run the fleet; 0 after SIGTERM, 1 with one line on stderr when it cannot go on."""
    parser = argparse.ArgumentParser(prog="python -m rollout", description="The rollout fleet of a run.")
    parser.add_argument("--run-folder", type=Path, required=True)
    probes.add_arguments(parser)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("kafka").setLevel(logging.ERROR)
    prepare_environment()
    from rollout.fleet import FleetError, run_fleet  # imports Ray, which reads its environment then

    try:
        run_fleet(given.run_folder, probes.serve(given.host, given.metrics_port))
    except (ValueError, OSError, StreamError, FleetError) as error:
        sys.stderr.write(f"rollout: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
