"""Where a run's topics are read from: its broker, or an interval of it that was recorded."""

from __future__ import annotations

from typing import Protocol

from common.endpoints import Endpoints
from common.settings import Settings
from common.stream import LogReader, check_topics, log_identity, topic_name
from trainer.record_buffer import Reader


class RunLog(Protocol):
    """The topics that a trainer reads, by their names without prefix."""

    def identity(self, name: str) -> str:
        """A topic's `common.stream.log_identity`."""

    def reader(self, name: str, positions: dict[int, int]) -> Reader:
        """Read a topic's partitions from these positions on.

        Raises:
            StreamError: the log does not have them, or no longer.
        """


class BrokerLog:
    """The topics on the run's broker."""

    def __init__(self, endpoints: Endpoints, settings: Settings) -> None:
        """Raises StreamError: a topic is missing, or has another number of partitions."""
        self._kafka, self._prefix, self._timeout_s = endpoints.kafka, endpoints.prefix, settings.stream.timeout_s
        check_topics(self._kafka, self._prefix, settings.stream.partitions, self._timeout_s)

    def identity(self, name: str) -> str:
        """As `RunLog.identity`."""
        return log_identity(self._kafka, topic_name(self._prefix, name), self._timeout_s)

    def reader(self, name: str, positions: dict[int, int]) -> LogReader:
        """As `RunLog.reader`."""
        return LogReader(self._kafka, topic_name(self._prefix, name), positions, self._timeout_s)
