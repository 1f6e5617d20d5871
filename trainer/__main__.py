"""``python -m trainer --run-folder RUN``: the streaming trainer of one run. SIGTERM ends it after the step at hand."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import torch

from common.metrics import serve
from common.parameter_channel import ChannelError, Publisher
from common.settings import load_settings
from common.stream import Producer, StreamError
from trainer.journal import Journal
from trainer.loop import Trainer
from trainer.publishing import BackgroundPublisher, PublishError
from trainer.resume import Endpoints, open_run
from trainer.statistics import Statistics

log = logging.getLogger("trainer")


def train(folder: Path, stop: Event, metrics_url: str = "") -> None:
    """Open a run, carry it to the end of its log (or to ``stop``), and close everything."""
    settings = load_settings(folder / "settings.json")
    with ExitStack() as closing:
        endpoints, redis = Endpoints.read(folder), settings.redis
        # The lease comes first: nobody else may hold it while this process opens journal and checkpoints.
        channel = Publisher(redis.url.get_secret_value(), endpoints.run, redis.keep_s, redis.timeout_s)
        publisher = BackgroundPublisher(channel, folder / "checkpoints")
        closing.callback(publisher.close)
        opened = open_run(folder, settings)
        closing.callback(opened.close)
        journal = Journal(folder / "journal.jsonl")
        closing.callback(journal.close)
        producer = Producer(endpoints.kafka, settings.stream.timeout_s)
        closing.callback(producer.close)
        statistics = closing.enter_context(Statistics(folder / "trainer_stats.jsonl", opened.run))
        Trainer(opened, journal, producer, publisher, statistics).run(
            stop, lambda: _say_ready(folder, endpoints.run, metrics_url)
        )


def main() -> int:
    """Parse the command line; 0 when the run's log is trained to its end or SIGTERM came, 1 on an error (one line)."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description="The streaming trainer of one run.")
    parser.add_argument("--run-folder", type=Path, required=True, help="folder made by `onerec up`")
    folder = parser.parse_args().run_folder
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    stop = Event()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        train(folder, stop, f"http://127.0.0.1:{serve()}/metrics")
    except (ValueError, StreamError, ChannelError, PublishError, OSError) as error:
        log.error("%s: %s", type(error).__name__, error)
        return 1
    return 0


def _say_ready(folder: Path, run: str, metrics_url: str) -> None:
    path = folder / "ready" / "trainer.json"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"pid": os.getpid(), "run": run, "metrics": metrics_url}))
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
