"""A file of one topic's records, with the position, time, key and headers of each: what is exported, and put back.

Gzipped JSON lines: a header (`RecordFileHeader`), one line a record, and a last line with their number and a checksum of all
lines before it, so that a cut is noticed. Bytes are written as text: UTF-8 as it is, any other byte ``b`` as the code point
``U+DC00 + b`` (Python's ``surrogateescape``), so that every value comes back exactly and JSON stays readable.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.durable import sync_folder
from common.history import Ranges
from common.stream import Record

TELL_EVERY = 1000


class RecordFileError(ValueError):
    """The file cannot be used: names it and what is wrong."""


class RecordFileHeader(BaseModel):
    """Where the records come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["onerec-records"] = "onerec-records"
    version: Literal[1] = 1
    log: str
    """Cluster and topic ids (`common.stream.log_identity`)."""
    topic: str
    partitions: int = Field(ge=1)
    """How many the topic has."""
    ranges: Ranges
    """Partition -> [first offset, last + 1) that was exported."""
    user: int | None = None
    """Only this user's records of the ranges are here."""


@dataclass(frozen=True)
class RecordFile:
    """A whole and intact file. Open it with `RecordFile.open`; iterating reads its records."""

    path: Path
    header: RecordFileHeader
    count: int

    @staticmethod
    def open(path: Path) -> RecordFile:
        """Read all of a file once, so that it is known to be whole before anything is done with it.

        Raises:
            RecordFileError: it is no such file, cut, or altered.
        """
        checksum, count, header, last = xxhash.xxh3_128(), -1, None, b""
        for line in _lines(path):
            if header is None:
                header = _header(path, line)
            if last:
                checksum.update(last)
                count += 1
            last = line
        if header is None:
            raise RecordFileError(f"{path} is empty")
        if last != _last_line(count, checksum.hexdigest()):
            raise RecordFileError(f"{path} is cut or altered: after {max(count, 0):,} records its last line does not fit")
        return RecordFile(path, header, count)

    def __iter__(self) -> Iterator[Record]:
        lines = _lines(self.path)
        next(lines)
        for _, line in zip(range(self.count), lines, strict=False):
            yield _record(self.header.topic, json.loads(line))


def write_records(
    path: Path, header: RecordFileHeader, records: Iterable[Record], on_record: Callable[[int], None] = lambda _: None
) -> int:
    """Write a file that only its owner reads, as a whole or not at all; the number of its records.

    ``on_record`` hears how many have been written, every `TELL_EVERY`.

    Raises:
        RecordFileError: the place is taken.
    """
    if path.exists():
        raise RecordFileError(f"{path} exists already: choose another name, or remove it")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as raw:
            count = _write(raw, header, records, on_record)
            raw.flush()
            os.fsync(raw.fileno())
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)
    return count


def text_of(data: bytes | None) -> str | None:
    """Bytes as text that `bytes_of` turns into the same bytes again; None stays None."""
    return None if data is None else data.decode("utf-8", "surrogateescape")


def bytes_of(text: str | None) -> bytes | None:
    """Inverse of `text_of`."""
    return None if text is None else text.encode("utf-8", "surrogateescape")


def _write(
    raw: io.BufferedWriter, header: RecordFileHeader, records: Iterable[Record], on_record: Callable[[int], None]
) -> int:
    checksum, count = xxhash.xxh3_128(), 0
    packed = gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=3, mtime=0)
    with packed, io.BufferedWriter(packed, 1 << 20) as lines:

        def put(line: bytes) -> None:
            checksum.update(line)
            lines.write(line)

        put(header.model_dump_json().encode() + b"\n")
        for record in records:
            put(_line(record))
            count += 1
            if count % TELL_EVERY == 0:
                on_record(count)
        lines.write(_last_line(count, checksum.hexdigest()))
    return count


def _line(record: Record) -> bytes:
    body = {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "key": text_of(record.key),
        "headers": [(name, text_of(value)) for name, value in record.headers],
        "value": text_of(record.value),
    }
    return json.dumps(body).encode() + b"\n"


def _record(topic: str, body: dict[str, Any]) -> Record:
    return Record(
        topic=topic,
        partition=body["partition"],
        offset=body["offset"],
        timestamp_ms=body["timestamp_ms"],
        key=bytes_of(body["key"]),
        value=bytes_of(body["value"]),
        headers=[(name, bytes_of(value) or b"") for name, value in body["headers"]],
    )


def _last_line(count: int, checksum: str) -> bytes:
    return json.dumps({"records": count, "xxh3_128": checksum}).encode() + b"\n"


def _header(path: Path, line: bytes) -> RecordFileHeader:
    try:
        return RecordFileHeader.model_validate_json(line)
    except ValidationError:
        raise RecordFileError(f"{path} is not a file of records, or of a newer version") from None


def _lines(path: Path) -> Iterator[bytes]:
    number = 0
    try:
        with gzip.open(path, "rb") as lines:
            for line in lines:
                number += 1
                yield line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RecordFileError(f"{path} is cut or damaged after line {number}: {error}") from error
