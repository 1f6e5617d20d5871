import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.record_file import RecordFile, RecordFileError, RecordFileHeader, bytes_of, text_of, write_records
from common.stream import Record

HEADER = RecordFileHeader(log="c/t", topic="x.sessions", partitions=2, ranges={0: (0, 5), 1: (3, 4)})
RECORDS = [
    Record("x.sessions", 0, 0, 1_000, b"7", '{"naïve": "日本"}'.encode(), []),
    Record("x.sessions", 1, 3, 1_001, None, b"\x00\xff\xed\xa0\x80 not text", [("h", b"\xfe"), ("h", b"")]),
    Record("x.sessions", 0, 4, 1_002, b"\x80", None, []),
]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl.gz"
    assert write_records(path, HEADER, RECORDS) == 3
    file = RecordFile.open(path)
    assert (file.header, file.count, list(file)) == (HEADER, 3, RECORDS)
    assert [p.name for p in tmp_path.iterdir()] == ["some.jsonl.gz"]
    assert path.stat().st_mode & 0o777 == 0o600


@given(st.binary())
def test_any_bytes_survive_as_text(data: bytes) -> None:
    assert bytes_of(text_of(data)) == data


def test_the_bytes_depend_on_the_records_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_records(tmp_path / name, HEADER, RECORDS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path, cut = tmp_path / "whole", tmp_path / "cut"
    write_records(path, HEADER, RECORDS)
    packed = path.read_bytes()
    for size in range(len(packed)):
        cut.write_bytes(packed[:size])
        with pytest.raises(RecordFileError, match=r"cut is (cut|empty)"):
            RecordFile.open(cut)


def test_a_file_whose_lines_were_cut_or_altered_is_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "whole", tmp_path / "other"
    write_records(path, HEADER, RECORDS)
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    for kept in (lines[:1], lines[:3], [*lines[:2], *lines[3:]], [lines[0], lines[1].replace(b"1000", b"1009"), *lines[2:]]):
        other.write_bytes(gzip.compress(b"".join(kept)))
        with pytest.raises(RecordFileError, match="other is cut or altered"):
            RecordFile.open(other)


def test_another_file_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(gzip.compress(b'{"session_id": "s"}\n'))
    with pytest.raises(RecordFileError, match="other is not a file of records"):
        RecordFile.open(path)
    path.write_text("plain")
    with pytest.raises(RecordFileError, match="other is cut or damaged after line 0"):
        RecordFile.open(path)


def test_a_file_that_exists_is_left_alone_and_one_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_text("mine")
    with pytest.raises(RecordFileError, match="taken exists already"):
        write_records(path, HEADER, RECORDS)
    assert path.read_text() == "mine"

    def failing() -> list[Record]:
        raise OSError("the log ended")

    with pytest.raises(OSError, match="the log ended"):
        write_records(tmp_path / "new", HEADER, (record for record in failing()))
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
