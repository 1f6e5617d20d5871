"""``python -m trainer --run-folder RUN``: the streaming trainer of one run. SIGTERM ends it after the step at hand.

With ``trainer.ranks`` N: ``torchrun --nproc-per-node N -m trainer --run-folder RUN``.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from threading import Event

from common.compute import compute_with
from common.endpoints import Endpoints
from common.parameter_channel import ChannelError, Publisher
from common.settings import Settings, load_settings
from common.stream import Producer, StreamError
from common.worker import run_worker, say_ready
from trainer.journal import Journal
from trainer.loop import Trainer
from trainer.parallel import RanksError, joined_ranks
from trainer.publishing import BackgroundPublisher, PublishError
from trainer.resume import open_run
from trainer.run_log import BrokerLog
from trainer.statistics import Statistics

RANKS_S = 1800.0
"""Longest that a rank waits for another, which may be reading a lost history store again from the log."""
ERRORS = (ValueError, StreamError, ChannelError, PublishError, RanksError, OSError)


def train(folder: Path, stop: Event, metrics_url: str = "") -> None:
    """Open a run, carry it to the end of its log (or to ``stop``), and close everything.

    Raises:
        ValueError: among others, torchrun started another number of ranks than `trainer.ranks`.
    """
    compute_with(threads=1)
    settings = load_settings(folder / "settings.json")
    with ExitStack() as closing:
        ranks = closing.enter_context(joined_ranks(timeout_s=RANKS_S))
        if ranks.world != settings.trainer.ranks:
            raise ValueError(f"trainer.ranks of {folder} is {settings.trainer.ranks}, but {ranks.world} were started")
        endpoints, publisher = Endpoints.read(folder), None
        if ranks.leads:
            # The lease comes first: nobody else may hold it while the ranks open journals and checkpoints.
            publisher = _publisher(folder, settings, endpoints)
            closing.callback(publisher.close)
        journal = Journal(ranks.own_file(folder / "journal.jsonl"))
        closing.callback(journal.close)
        opened = open_run(folder, settings, ranks, BrokerLog(endpoints, settings))
        closing.callback(opened.close)
        producer = Producer(endpoints.kafka, settings.stream.timeout_s)
        closing.callback(producer.close)
        statistics = closing.enter_context(Statistics(folder / "trainer_stats.jsonl", opened.run))
        worker = "trainer" if ranks.leads else f"trainer-{ranks.rank}"
        trainer = Trainer(opened, journal, producer, publisher, statistics)
        closing.callback(trainer.close)
        trainer.run(stop, lambda: say_ready(folder, worker, run=endpoints.run, metrics=metrics_url))


def _publisher(folder: Path, settings: Settings, endpoints: Endpoints) -> BackgroundPublisher:
    redis = settings.redis
    channel = Publisher(redis.url.get_secret_value(), endpoints.run, redis.keep_s, redis.timeout_s)
    return BackgroundPublisher(channel, folder / "checkpoints")


if __name__ == "__main__":
    sys.exit(run_worker("trainer", "The streaming trainer of one run.", train, ERRORS))
