"""How a worker process of a run starts and ends: its command line, its log, SIGTERM, one line for what went wrong."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event

from common import probes
from common.process_log import start_log

SWITCH_S = 0.0005


def run_worker(
    package: str, about: str, work: Callable[[Path, Event, str], None], errors: tuple[type[Exception], ...]
) -> int:
    """Parse the command line, run ``work(folder, stop, metrics_url)``, and give the process's exit status.

    The first SIGTERM or SIGINT sets ``stop``. Status 0 when ``work`` returns; 1 and one line in the log for one of
    ``errors``, which say what is wrong outside the program.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=about)
    parser.add_argument("--run-folder", type=Path, required=True, help="folder made by `onerec up` or `onerec init`")
    probes.add_arguments(parser)
    given = parser.parse_args()
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        start_log(package, given.run_folder)
        work(given.run_folder, stop, probes.serve(given.host, given.metrics_port))
    except errors as error:
        logging.getLogger(package).error("%s: %s", type(error).__name__, error)
        return 1
    return 0


def say_ready(folder: Path, worker: str, **facts: str) -> None:
    """Leave ``ready/WORKER.json`` with the process's id and some facts, for whoever waits for it, and tell probes so."""
    prefer_latency()
    probes.PULSE.able = True
    path = folder / "ready" / f"{worker}.json"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"pid": os.getpid(), **facts}))
    temporary.replace(path)
    logging.getLogger(worker).info("ready")


def prefer_latency() -> None:
    """Make the pauses of this process short, for the rest of it. To be called when it begins its work.

    What it has imported and loaded stays anyway: it is exempt from garbage collection, which looked through it for some
    100 ms, in which nothing else ran. And a thread that waits for the interpreter lock gets it after half a millisecond, not
    five: loading in the background is slower for it, and those it is done behind are not held up.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_S)
