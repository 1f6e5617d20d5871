"""Where topics are: at a run's broker, under its prefix, or at a broker and prefix that were named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.endpoints import Endpoints
from common.stream import TOPICS, topic_name
from deploy.local.preflight import check_kafka
from deploy.local.run_folder import RunFolder

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Place:
    """A broker, the first part of the topic names there, and how long to wait for it."""

    kafka: str
    prefix: str
    timeout_s: float
    run_folder: Path | None = None

    @staticmethod
    def of(run_folder: Path | None, kafka: str, prefix: str) -> Place:
        """From the options of a command; a run folder says everything.

        Raises:
            ValueError: neither is given, or nobody listens there.
        """
        if run_folder is not None:
            run = RunFolder.open(run_folder)
            endpoints = Endpoints.read(run.path)
            place = Place(endpoints.kafka, endpoints.prefix, run.settings.stream.timeout_s, run.path)
        elif kafka:
            place = Place(kafka, prefix, TIMEOUT_S)
        else:
            raise ValueError("either --run-folder or --kafka HOST:PORT must say where the topics are")
        check_kafka(place.kafka)
        return place

    def topic(self, name: str) -> str:
        """One of the loop's topics by its short name; any other name is the full one already."""
        return topic_name(self.prefix, name) if name in TOPICS else name


def short_name(topic: str) -> str:
    """A topic's name without its prefix."""
    return topic.rpartition(".")[2]
