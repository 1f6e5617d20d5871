"""Where a record lay first: kept as a header when it is put on a topic again, so that readers can go by that position."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.stream import Record

HEADER = "onerec-origin"


class Origin(BaseModel):
    """A position in a log. ``log`` is `common.stream.log_identity`: it changes when a broker or a topic was recreated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    log: str
    topic: str
    partition: int = Field(ge=0)
    offset: int = Field(ge=0)

    @property
    def header(self) -> tuple[str, bytes]:
        """Its form among a record's headers."""
        return HEADER, self.model_dump_json().encode()


def origin_of(record: Record) -> Origin | None:
    """The origin that a record carries; None for one that lies where it was first, or whose header cannot be read."""
    for name, value in record.headers:
        if name == HEADER:
            try:
                return Origin.model_validate_json(value)
            except ValidationError:
                return None
    return None


def first_origin(record: Record, log: str) -> Origin:
    """The origin that a record of ``log`` carries; where it carries none, it is at its origin."""
    here = Origin(log=log, topic=record.topic, partition=record.partition, offset=record.offset)
    return origin_of(record) or here


def headers_with(origin: Origin, headers: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Headers that say the origin, beside what else they say."""
    return [*((name, value) for name, value in headers if name != HEADER), origin.header]
