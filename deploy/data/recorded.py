"""Recorded records: out of a file or a topic's interval, and into a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from common.history import Ranges
from common.log_interval import partition_count, records_between
from common.record_file import RecordFile, RecordFileHeader, write_records
from common.stream import Record, log_identity
from deploy.data.interval import Point, check_offset, interval
from deploy.data.place import Place, short_name
from deploy.data.selection import of_user


@dataclass(frozen=True)
class Source:
    """Records of one topic, oldest first, which lie in ``ranges``; ``log`` and ``partitions`` are that topic's.

    With ``user``, they are that user's only.
    """

    log: str
    topic: str
    partitions: int
    ranges: Ranges
    user: int | None
    records: Iterable[Record]

    @property
    def total(self) -> int:
        """How many records there are at most."""
        return sum(end - first for first, end in self.ranges.values())


def from_topic(
    place: Place, topic: str, first: Point | None, last: Point | None, partition: int | None = None, user: int | None = None
) -> Source:
    """A topic's interval, or what of it is about a user.

    Raises:
        ValueError, StreamError: as `deploy.data.interval.interval`; the topic's records are no user's.
    """
    ranges = interval(place, topic, first, last, partition)
    count = partition_count(place.kafka, topic, place.timeout_s)
    records: Iterable[Record] = records_between(place.kafka, topic, ranges, place.timeout_s)
    if user is not None:
        records = filter(of_user(short_name(topic), user, count, place.run_folder), records)
    return Source(log_identity(place.kafka, topic, place.timeout_s), topic, count, ranges, user, records)


def from_file(
    path: Path,
    first: Point | None,
    last: Point | None,
    partition: int | None = None,
    user: int | None = None,
    run_folder: Path | None = None,
) -> Source:
    """A file's records between two points, or what of them is about a user.

    Raises:
        ValueError: the file is cut or altered, or does not hold the partition or the offset that a point names.
    """
    file = RecordFile.open(path)
    header = file.header
    chosen = _chosen(header.ranges, partition)
    for option, at in (("--from", first), ("--to", last)):
        if at is not None and at.kind == "offset":
            check_offset(option, at, chosen, path.name)
    records: Iterable[Record] = (
        record for record in file if record.partition in chosen and _is_between(record, first, last)
    )
    if user is not None:
        records = filter(of_user(short_name(header.topic), user, header.partitions, run_folder), records)
    return Source(header.log, header.topic, header.partitions, chosen, header.user if user is None else user, records)


def to_file(source: Source, path: Path, on_progress: Callable[[str], None] = lambda _: None) -> int:
    """Write all records; their number. The file's bytes depend on the log and the interval alone.

    Raises:
        ValueError: the place is taken.
        StreamError: the broker does not give the records.
    """
    header = RecordFileHeader(
        log=source.log, topic=source.topic, partitions=source.partitions, ranges=source.ranges, user=source.user
    )
    total = source.total
    return write_records(path, header, source.records, lambda done: on_progress(f"{done:,} of {total:,} records written"))


def _chosen(ranges: Ranges, partition: int | None) -> Ranges:
    if partition is None:
        return ranges
    if partition not in ranges:
        raise ValueError(f"--partition must be one of {', '.join(map(str, ranges))} of the file, got {partition}")
    return {partition: ranges[partition]}


def _is_between(record: Record, first: Point | None, last: Point | None) -> bool:
    """A time is compared record by record: a file is in order of time but for records that were late already."""
    return (first is None or _value(record, first) >= first.value) and (last is None or _value(record, last) < last.value)


def _value(record: Record, at: Point) -> int:
    return record.offset if at.kind == "offset" else record.timestamp_ms
