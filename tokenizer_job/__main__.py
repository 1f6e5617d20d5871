"""``python -m tokenizer_job --run-folder RUN``: the online tokenizer of a run. SIGTERM ends it after a last snapshot."""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Event

import torch

from common.endpoints import Endpoints
from common.settings import load_settings
from common.stream import StreamError
from common.worker import run_worker, say_ready
from tokenizer_job.service import ItemFollower


def follow(folder: Path, stop: Event, metrics_url: str = "") -> None:
    """Open a run and follow its items until ``stop``; says in ``ready/tokenizer.json`` when it does."""
    torch.set_num_threads(1)
    endpoints = Endpoints.read(folder)
    follower = ItemFollower(folder, endpoints.kafka, endpoints.prefix, load_settings(folder / "settings.json"))
    try:
        say_ready(folder, "tokenizer", metrics=metrics_url)
        follower.run(stop)
    finally:
        follower.close()


if __name__ == "__main__":
    sys.exit(run_worker("tokenizer_job", "The online tokenizer of one run.", follow, (ValueError, StreamError, OSError)))
