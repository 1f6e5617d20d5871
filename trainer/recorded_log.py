"""An interval of a run's topics, read from files by the positions that the records had on the run's broker."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from common.record_file import RecordFile
from common.stream import Record, StreamError


class RecordedLog:
    """A `trainer.run_log.RunLog` without a broker: one file of records a topic, ``NAME.jsonl.gz``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def identity(self, name: str) -> str:
        """The identity of the log that was recorded."""
        return self._file(name).header.log

    def reader(self, name: str, positions: dict[int, int]) -> RecordedReader:
        """Read what was recorded of a topic.

        Raises:
            StreamError: a position was not recorded.
        """
        return RecordedReader(self._file(name), positions)

    def _file(self, name: str) -> RecordFile:
        return RecordFile.open(self._folder / f"{name}.jsonl.gz")


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
