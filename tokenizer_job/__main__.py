"""``python -m tokenizer_job --run-folder RUN``: the online tokenizer of a run. SIGTERM ends it after a last snapshot."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from pathlib import Path
from threading import Event

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from common.metrics import serve
from common.settings import load_settings
from common.stream import StreamError
from tokenizer_job.service import ItemFollower

log = logging.getLogger("tokenizer")


class Endpoints(BaseModel):
    """``endpoints.json`` of a run folder, as far as this process needs it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    kafka: str
    prefix: str


def follow(folder: Path, stop: Event) -> None:
    """Open a run and follow its items until ``stop``; says in ``ready/tokenizer.json`` when it does."""
    try:
        endpoints = Endpoints.model_validate_json((folder / "endpoints.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise ValueError(f"{folder / 'endpoints.json'}: {' '.join(str(error).split())[:300]}") from None
    follower = ItemFollower(folder, endpoints.kafka, endpoints.prefix, load_settings(folder / "settings.json"))
    try:
        ready = folder / "ready" / "tokenizer.json"
        ready.parent.mkdir(exist_ok=True)
        part = ready.with_suffix(".tmp")
        part.write_text(json.dumps({"pid": os.getpid(), "metrics": f"http://127.0.0.1:{serve()}/metrics"}))
        part.replace(ready)
        follower.run(stop)
    finally:
        follower.close()


def main() -> int:
    """Parse the command line; 0 after SIGTERM, 1 on an error (one line)."""
    parser = argparse.ArgumentParser(prog="python -m tokenizer_job", description="The online tokenizer of one run.")
    parser.add_argument("--run-folder", type=Path, required=True, help="folder made by `onerec up`")
    folder = parser.parse_args().run_folder
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        follow(folder, stop)
    except (ValueError, StreamError, OSError) as error:
        log.error("%s: %s", type(error).__name__, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
