"""How a worker process of a run starts and ends: its command line, its log, SIGTERM, one line for what went wrong."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Event

from common.metrics import serve


def run_worker(
    package: str, about: str, work: Callable[[Path, Event, str], None], errors: tuple[type[Exception], ...]
) -> int:
    """Parse ``--run-folder``, run ``work(folder, stop, metrics_url)``, and give the process's exit status.

    The first SIGTERM or SIGINT sets ``stop``. Status 0 when ``work`` returns; 1 and one line in the log for one of
    ``errors``, which say what is wrong outside the program.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=about)
    parser.add_argument("--run-folder", type=Path, required=True, help="folder made by `onerec up`")
    folder = parser.parse_args().run_folder
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.WARNING)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        work(folder, stop, f"http://127.0.0.1:{serve()}/metrics")
    except errors as error:
        logging.getLogger(package).error("%s: %s", type(error).__name__, error)
        return 1
    return 0


def say_ready(folder: Path, worker: str, **facts: str) -> None:
    """Leave ``ready/WORKER.json`` with the process's id and some facts, for whoever waits for it."""
    spare_collector()
    path = folder / "ready" / f"{worker}.json"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"pid": os.getpid(), **facts}))
    temporary.replace(path)


def spare_collector() -> None:
    """Exempt all objects that there are now from garbage collection, for the rest of the process.

    What a process has imported and loaded stays anyway, and to look through it takes some 100 ms, in which nothing else
    runs. To be called when a process begins its work.
    """
    gc.collect()
    gc.freeze()
