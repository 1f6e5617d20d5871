"""``python -m tokenizer_job --run-folder RUN``: the online tokenizer of a run. SIGTERM ends it after a last snapshot."""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Event

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from common.settings import load_settings
from common.stream import StreamError
from common.worker import run_worker, say_ready
from tokenizer_job.service import ItemFollower


class Endpoints(BaseModel):
    """``endpoints.json`` of a run folder, as far as this process needs it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    kafka: str
    prefix: str


def follow(folder: Path, stop: Event, metrics_url: str = "") -> None:
    """Open a run and follow its items until ``stop``; says in ``ready/tokenizer.json`` when it does."""
    torch.set_num_threads(1)
    try:
        endpoints = Endpoints.model_validate_json((folder / "endpoints.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise ValueError(f"{folder / 'endpoints.json'}: {' '.join(str(error).split())[:300]}") from None
    follower = ItemFollower(folder, endpoints.kafka, endpoints.prefix, load_settings(folder / "settings.json"))
    try:
        say_ready(folder, "tokenizer", metrics=metrics_url)
        follower.run(stop)
    finally:
        follower.close()


if __name__ == "__main__":
    sys.exit(run_worker("tokenizer_job", "The online tokenizer of one run.", follow, (ValueError, StreamError, OSError)))
