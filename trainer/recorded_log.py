"""An interval of a run's topics, read by the positions that the records had on the run's broker: from a bundle's files, or
from topics that they were put on again (`common.origin`).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

from common.log_interval import beginnings
from common.origin import origin_of
from common.record_file import RecordFile
from common.stream import LogReader, Record, StreamError, topic_name
from trainer.record_buffer import Reader


class RecordedLog:
    """A `trainer.run_log.RunLog` without a broker: one file of records a topic, ``NAME.jsonl.gz``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def identity(self, name: str) -> str:
        """The identity of the log that was recorded."""
        return self._file(name).header.log

    def reader(self, name: str, positions: dict[int, int]) -> Reader:
        """Read what was recorded of a topic.

        Raises:
            StreamError: a position was not recorded.
        """
        return RecordedReader(self._file(name), positions)

    def _file(self, name: str) -> RecordFile:
        return RecordFile.open(self._folder / f"{name}.jsonl.gz")


class ReplayedLog(RecordedLog):
    """The same, but the records come from the topics of a broker on which the files' records were put again."""

    def __init__(self, folder: Path, kafka: str, prefix: str, timeout_s: float) -> None:
        super().__init__(folder)
        self._kafka, self._prefix, self._timeout_s = kafka, prefix, timeout_s

    def reader(self, name: str, positions: dict[int, int]) -> Reader:
        """Read the topic of this name from its beginning.

        Raises:
            StreamError: the topic does not exist, or the broker does not answer.
        """
        topic = topic_name(self._prefix, name)
        begins = beginnings(self._kafka, topic, self._timeout_s)
        return OriginReader(LogReader(self._kafka, topic, begins, self._timeout_s), self.identity(name), positions)


class OriginReader:
    """Gives a topic's records of one ``log`` as they lay there; others are passed over."""

    def __init__(self, reader: LogReader, log: str, positions: dict[int, int]) -> None:
        self.positions = dict(positions)
        self._reader, self._log = reader, log

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """The next records, at their origins.

        Raises:
            StreamError: one is missing before them, because they were put in another order or not all of them.
        """
        records = []
        for record in self._reader.poll(max_records, timeout_s):
            origin = origin_of(record)
            if origin is None or origin.log != self._log or origin.offset < self.positions.get(origin.partition, 0):
                continue
            if origin.offset != self.positions[origin.partition]:
                expected = f"{origin.topic}[{origin.partition}]@{self.positions[origin.partition]}"
                raise StreamError(
                    f"{record.topic} holds offset {origin.offset} before {expected}: it was not replayed in order"
                )
            self.positions[origin.partition] += 1
            records.append(replace(record, topic=origin.topic, partition=origin.partition, offset=origin.offset))
        return records

    def lag(self) -> dict[int, int]:
        """Records that were put on the topic and not read, whatever their origin."""
        lag = self._reader.lag()
        return {partition: lag.get(partition, 0) for partition in self.positions}

    def close(self) -> None:
        """Close the connections."""
        self._reader.close()


class RecordedReader:
    """Gives a file's records as `common.stream.LogReader` gave them when they were on a topic."""

    def __init__(self, file: RecordFile, positions: dict[int, int]) -> None:
        self.positions = dict(positions)
        self._path, self._ranges = file.path, file.header.ranges
        for partition, position in positions.items():
            first, end = self._ranges.get(partition, (0, 0))
            if not first <= position <= end:
                raise StreamError(f"{file.path} holds {first} up to {end} of partition {partition}, not {position}")
        self._records = (record for record in file if record.offset >= positions.get(record.partition, record.offset + 1))

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:  # noqa: ARG002 - a file does not make wait
        """The next records.

        Raises:
            StreamError: there are no more.
        """
        records = list(islice(self._records, max_records))
        if not records:
            raise StreamError(f"{self._path} holds no more records, it stands at {self.positions}")
        for record in records:
            self.positions[record.partition] = record.offset + 1
        return records

    def lag(self) -> dict[int, int]:
        """Records behind each partition's position."""
        return {partition: self._ranges[partition][1] - position for partition, position in sorted(self.positions.items())}

    def close(self) -> None:
        """Nothing stays open."""
