"""``python -m trainer --run-folder RUN``: the streaming trainer of one run. SIGTERM ends it after the step at hand."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import torch

from common.parameter_channel import ChannelError, Publisher
from common.settings import load_settings
from common.stream import Producer, StreamError
from common.worker import run_worker, say_ready
from trainer.journal import Journal
from trainer.loop import Trainer
from trainer.publishing import BackgroundPublisher, PublishError
from trainer.resume import Endpoints, open_run
from trainer.statistics import Statistics

ERRORS = (ValueError, StreamError, ChannelError, PublishError, OSError)


def train(folder: Path, stop: Event, metrics_url: str = "") -> None:
    """Open a run, carry it to the end of its log (or to ``stop``), and close everything."""
    torch.set_num_threads(1)
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
            stop, lambda: say_ready(folder, "trainer", run=endpoints.run, metrics=metrics_url)
        )


if __name__ == "__main__":
    sys.exit(run_worker("trainer", "The streaming trainer of one run.", train, ERRORS))
