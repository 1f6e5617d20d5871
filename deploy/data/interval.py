"""The interval of a topic that a person means by ``--from`` and ``--to``: offsets, or times."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from common.history import Ranges
from common.log_interval import held_ranges, offsets_at
from deploy.data.place import Place

AGO_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
ACCEPTED = (
    "an offset (1200), a time with its zone (2026-01-31T12:00:00Z), ms since 1970 (1767225600000ms) "
    "or an age in s, m, h or d (-2h)"
)


@dataclass(frozen=True)
class Point:
    """An offset, the same in every partition, or a time in ms since 1970; ``text`` is how it was given."""

    kind: Literal["offset", "time"]
    value: int
    text: str


def point(option: str, text: str, now_ms: int) -> Point:
    """Read a point of an interval; ages (s, m, h, d) count back from ``now_ms``.

    Raises:
        ValueError: names the option, the text, and what is accepted.
    """
    if re.fullmatch(r"\d+", text):
        return Point("offset", int(text), text)
    if found := re.fullmatch(r"(\d+)ms", text):
        return Point("time", int(found[1]), text)
    if found := re.fullmatch(r"-(\d+)([smhd])", text):
        return Point("time", now_ms - int(found[1]) * AGO_MS[found[2]], text)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{option} must be {ACCEPTED}, got {text!r}") from None
    if when.tzinfo is None:
        raise ValueError(f"{option} must be a time with its zone, such as {text}Z or {text}+08:00, got {text!r}")
    return Point("time", int(when.timestamp() * 1000), text)


def interval(place: Place, topic: str, first: Point | None, last: Point | None, partition: int | None = None) -> Ranges:
    """Partition -> [first offset, last + 1) of a topic, from its beginning and up to its present end where a point is None.

    A time stands for the first record that is not older; the last point is not included.

    Raises:
        ValueError: an offset is out of range, there is no such partition, or there are no records between.
        StreamError: the topic does not exist, or the broker does not answer.
    """
    held = held_ranges(place.kafka, topic, place.timeout_s)
    if partition is not None and partition not in held:
        raise ValueError(f"--partition must be one of {', '.join(map(str, held))} of {topic}, got {partition}")
    chosen = held if partition is None else {partition: held[partition]}
    begins = _offsets(place, topic, chosen, "--from", first) or {p: begin for p, (begin, _) in chosen.items()}
    ends = _offsets(place, topic, chosen, "--to", last) or {p: end for p, (_, end) in chosen.items()}
    if all(begins[p] >= ends[p] for p in chosen):
        span = f"from {first.text if first else 'its beginning'} to {last.text if last else 'its end'}"
        raise ValueError(f"{topic} holds no records {span}")
    return {p: (begins[p], max(begins[p], ends[p])) for p in chosen}


def _offsets(place: Place, topic: str, held: Ranges, option: str, at: Point | None) -> dict[int, int]:
    if at is None:
        return {}
    if at.kind == "time":
        return offsets_at(place.kafka, topic, held, at.value, place.timeout_s)
    check_offset(option, at, held, topic)
    return dict.fromkeys(held, at.value)


def check_offset(option: str, at: Point, held: Ranges, of: str) -> None:
    """Whether every partition's range holds an offset, or ends there.

    Raises:
        ValueError: names the option, the partition and its range.
    """
    for partition, (begin, end) in held.items():
        if not begin <= at.value <= end:
            hint = f"; a time in ms is written {at.value}ms" if at.value >= 10**11 else ""
            raise ValueError(f"{option} {at.value} is out of range: {of}[{partition}] holds {begin} up to {end}{hint}")
