"""Records of one topic, read ahead of the steps and handed out by count (live) or by recorded ranges (after a crash)."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

from common.history import Ranges
from common.stream import Record, StreamError


class Reader(Protocol):
    """What records are read with: `common.stream.LogReader`, or `trainer.recorded_log.RecordedReader`."""

    positions: dict[int, int]
    """Partition -> next offset to read."""

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """Up to ``max_records`` next records, a partition's in order; empty after ``timeout_s``."""

    def lag(self) -> dict[int, int]:
        """Records behind each partition's position, as far as is known."""

    def close(self) -> None:
        """Let go of what it reads from."""


class RecordBuffer:
    """What was read but not yet handed out. ``positions`` are the next offsets to hand out, and what a checkpoint keeps."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.positions = dict(reader.positions)
        self._waiting: dict[int, deque[Record]] = {partition: deque() for partition in reader.positions}

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._waiting.values())

    def fill(self, count: int, timeout_s: float) -> bool:
        """Poll once for up to ``count`` records. False if nothing came."""
        records = self.reader.poll(count, timeout_s)
        for record in records:
            self._waiting[record.partition].append(record)
        return bool(records)

    def cut(self, count: int) -> list[Record]:
        """Up to ``count`` records, always the oldest (by time, then partition) of the partitions' next ones."""
        records: list[Record] = []
        while len(records) < count:
            heads = [waiting[0] for waiting in self._waiting.values() if waiting]
            if not heads:
                break
            first = min(heads, key=lambda record: (record.timestamp_ms, record.partition))
            records.append(self._pop(first.partition))
        return records

    def take(self, ranges: Ranges, timeout_s: float) -> list[Record]:
        """Exactly the records of these ranges, which must begin at ``positions``.

        Raises:
            StreamError: they do not come within ``timeout_s`` (names topic, partition and offset).
        """
        deadline = time.monotonic() + timeout_s
        records: list[Record] = []
        for partition, (first, end) in sorted(ranges.items()):
            if first != self.positions[partition]:
                raise StreamError(f"partition {partition} stands at {self.positions[partition]}, not at {first} as recorded")
            while self.reader.positions[partition] < end:
                if not self.fill(500, 0.2) and time.monotonic() > deadline:
                    reached = self.reader.positions[partition]
                    raise StreamError(f"partition {partition} was recorded up to {end}, but only {reached} could be read")
            waiting = self._waiting[partition]
            while waiting and waiting[0].offset < end:
                records.append(self._pop(partition))
            self.positions[partition] = end
        return records

    def read_past(self, ends: dict[int, int]) -> bool:
        """Whether everything up to these last offsets has been read (not necessarily handed out)."""
        return all(self.reader.positions[partition] > last for partition, last in ends.items())

    def is_dry(self) -> bool:
        """Whether everything that the last fetch saw in the log has been read."""
        return not any(self.reader.lag().values())

    def lag(self) -> dict[int, int]:
        """Records in the log that were not handed out yet, per partition."""
        return {partition: unread + len(self._waiting[partition]) for partition, unread in self.reader.lag().items()}

    def _pop(self, partition: int) -> Record:
        record = self._waiting[partition].popleft()
        self.positions[partition] = record.offset + 1
        return record


def even_cuts(held: list[int], count: int) -> list[int]:
    """How many of ``count`` records each rank cuts from the ``held`` ones: evenly; what one lacks the others make up for."""
    cuts = [0] * len(held)
    for _ in range(min(count, sum(held))):
        _, rank = min((cut, rank) for rank, cut in enumerate(cuts) if cut < held[rank])
        cuts[rank] += 1
    return cuts
