from pathlib import Path

import pytest

from common.origin import Origin
from common.record_file import RecordFile, RecordFileHeader, write_records
from common.stream import Record, StreamError
from tests.trainer.test_record_buffer import ListReader
from trainer.recorded_log import OriginReader, RecordedLog, RecordedReader

LOG = "cluster/topic"


def record(partition: int, offset: int, origin: Origin | None = None) -> Record:
    return Record("a.sessions", partition, offset, 0, None, b"", [origin.header] if origin else [])


def at(partition: int, offset: int, log: str = LOG) -> Origin:
    return Origin(log=log, topic="a.sessions", partition=partition, offset=offset)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Offsets 5 to 8 of partition 0 and offset 2 of partition 1."""
    header = RecordFileHeader(log=LOG, topic="a.sessions", partitions=2, ranges={0: (5, 9), 1: (2, 3)})
    records = [record(0, 5), record(1, 2), *(record(0, offset) for offset in (6, 7, 8))]
    write_records(tmp_path / "sessions.jsonl.gz", header, records)
    return tmp_path


def test_records_are_read_from_a_file_by_position(folder: Path) -> None:
    log = RecordedLog(folder)
    assert log.identity("sessions") == LOG
    reader = log.reader("sessions", {0: 6, 1: 2})
    assert reader.lag() == {0: 3, 1: 1}
    assert [(one.partition, one.offset) for one in reader.poll(2, 0.0)] == [(1, 2), (0, 6)]
    assert reader.positions == {0: 7, 1: 3}
    assert [one.offset for one in reader.poll(9, 0.0)] == [7, 8]
    with pytest.raises(StreamError, match=r"holds no more records, it stands at \{0: 9, 1: 3\}"):
        reader.poll(9, 0.0)


def test_a_position_that_was_not_recorded_is_refused(folder: Path) -> None:
    file = RecordFile.open(folder / "sessions.jsonl.gz")
    for position in (4, 10):
        with pytest.raises(StreamError, match=f"holds 5 up to 9 of partition 0, not {position}"):
            RecordedReader(file, {0: position})


def test_records_that_were_put_again_are_read_at_their_origins() -> None:
    there = [
        record(0, 0),
        record(0, 1, at(1, 4)),
        record(0, 2, at(1, 9, "other")),
        record(1, 0, at(1, 5)),
        record(0, 3, at(1, 6)),
    ]
    reader = OriginReader(ListReader(there, {0: 0, 1: 0}), LOG, {1: 5})
    found = reader.poll(9, 0.0) + reader.poll(9, 0.0)
    assert [(one.partition, one.offset) for one in found] == [(1, 5), (1, 6)]
    assert reader.positions == {1: 7}


def test_one_that_is_missing_before_another_is_an_error() -> None:
    reader = OriginReader(ListReader([record(0, 0, at(0, 1))], {0: 0}), LOG, {0: 0})
    with pytest.raises(StreamError, match=r"holds offset 1 before a\.sessions\[0\]@0: it was not replayed in order"):
        reader.poll(9, 0.0)
