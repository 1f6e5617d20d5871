"""Reading the gzipped tables that public data sets come in, with errors that name file, line and column."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeVar

from pydantic import BaseModel, ValidationError

Form = TypeVar("Form", bound=BaseModel)


def require_files(folder: Path, kind: str, names: tuple[str, ...]) -> None:
    """Raises ValueError "FOLDER is not KIND folder: missing X" when a file is absent."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} is not {kind} folder: missing {', '.join(missing)}")


_ZERO = {None, "", "0"}


class Row(dict[str, str]):
    """One row of a CSV file: column -> text, with numbers on demand."""

    def __init__(self, values: dict[str, str], where: str) -> None:
        super().__init__(values)
        self.where = where

    def number(self, column: str) -> int:
        """A required whole number >= 0 (``12`` or ``12.0``).

        Raises:
            ValueError: the column is absent, empty or something else; names file, line and value.
        """
        text = self.get(column) or ""
        value = whole_number(text)
        if value is None:
            raise ValueError(f"{self.where}: {column} must be a whole number >= 0, got {text!r}")
        return value

    def number_or_zero(self, column: str) -> int:
        """Like `number`, but 0 where the column is absent or empty (0 means unknown)."""
        return 0 if self.get(column) in _ZERO else self.number(column)


def whole_number(text: str) -> int | None:
    """The whole number >= 0 that a text spells (``7``, ``7.0``), or None."""
    if text.isdecimal():
        return int(text)
    whole, point, fraction = text.partition(".")
    return int(whole) if point and whole.isdecimal() and fraction.strip("0") == "" else None


@contextmanager
def told_at(where: str) -> Iterator[None]:
    """What does not validate within becomes a ValueError in one line that names the place and the field."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {field}: {first['msg']}" if field else f"{where}: {first['msg']}") from None


def read_csv(path: Path, required: tuple[str, ...]) -> Iterator[Row]:
    """Rows of a ``.csv.gz`` file whose header has (at least) the required columns.

    Raises:
        ValueError: a column is missing, a row has more or fewer cells than the header (names file and line), or the file is
            damaged.
    """
    with _opened(path) as lines:
        reader = csv.DictReader(lines)
        missing = [column for column in required if column not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"{path}: missing column {', '.join(missing)}")
        for values in reader:
            where = f"{path} line {reader.line_num}"
            if None in values or None in values.values():  # the reader's marks of cells too many and too few
                raise ValueError(f"{where}: has more or fewer cells than the header's {len(reader.fieldnames or [])}")
            yield Row(values, where)


def read_json_lines(path: Path, form: type[Form]) -> Iterator[Form]:
    """Objects of a ``.jsonl.gz`` file, each of this form.

    Raises:
        ValueError: a line is no such object (names file, line and field), or the file is damaged.
    """
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            with told_at(f"{path} line {number}"):
                value = form.model_validate_json(line)
            yield value


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A gzipped text file; damage becomes a ValueError that names it."""
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
            yield lines
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
