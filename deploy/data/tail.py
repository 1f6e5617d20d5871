"""The newest messages of a run's topics and the newest lines of its statistics, and those that follow.

consumes:     a topic, or ``trainer_stats.jsonl``
produces:     lines
waits for:    the next message
unblocked by: its arrival, Ctrl-C; the broker's timeout, if it is silent
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from common.history import Ranges
from common.log_interval import held_ranges, records_between
from common.messages import DeadLetter, ItemEvent, Message, RolloutGroup, RolloutRequest, Session, decode
from common.record_file import text_of
from common.stream import LogReader, Record
from deploy.data.lines import record_line, statistics_line
from deploy.data.place import Place
from deploy.data.selection import of_user
from deploy.local.statistics import Tail

POLL_S = 0.2
METRICS = "metrics"


@dataclass(frozen=True)
class Kind:
    """What can be followed: its topic, its messages, and the filters that apply to them."""

    topic: str
    model: type[Message]
    filters: tuple[str, ...] = ()


KINDS = {
    "sessions": Kind("sessions", Session, ("user", "item")),
    "groups": Kind("rollout-groups", RolloutGroup, ("user", "item", "version")),
    "requests": Kind("rollout-requests", RolloutRequest, ("user",)),
    "items": Kind("items", ItemEvent, ("item",)),
    "dead-letters": Kind("dead-letters", DeadLetter),
}
"""By the word that a person types."""
NAMES = (*KINDS, METRICS)


@dataclass(frozen=True)
class Filters:
    """Whom and what is wanted; None is everything."""

    user: int | None = None
    item: int | None = None
    version: int | None = None

    def check(self, name: str) -> None:
        """Raises ValueError: a filter is given that does not apply."""
        apply = KINDS[name].filters if name in KINDS else ("version",)
        for option in ("user", "item", "version"):
            if getattr(self, option) is not None and option not in apply:
                known = ", ".join(f"--{one}" for one in apply) or "no filter"
                raise ValueError(f"--{option} does not apply to {name}, which takes {known}")


def tail_topic(place: Place, name: str, filters: Filters, last: int, follow: bool, as_json: bool) -> Iterator[str]:
    """The newest ``last`` messages that pass the filters, oldest first, then, if ``follow``, every new one for ever.

    Raises:
        ValueError: a filter does not apply, or a group's user cannot be found out.
        StreamError: the topic does not exist, or the broker does not answer.
    """
    filters.check(name)
    kind, topic = KINDS[name], place.topic(KINDS[name].topic)
    held = held_ranges(place.kafka, topic, place.timeout_s)
    passes = _passes(place, kind, filters, len(held))
    for record in _newest(place, topic, held, last, passes, filters == Filters()):
        yield _told(record, kind, as_json)
    if not follow:
        return
    with closing(LogReader(place.kafka, topic, {p: end for p, (_, end) in held.items()}, place.timeout_s)) as reader:
        while True:
            for record in filter(passes, reader.poll(500, POLL_S)):
                yield _told(record, kind, as_json)


def tail_statistics(run: Path, filters: Filters, last: int, follow: bool, as_json: bool) -> Iterator[str]:
    """The same for the lines of the trainer's statistics."""
    filters.check(METRICS)
    file = Tail(run / "trainer_stats.jsonl")
    lines: Iterable[dict[str, Any]] = deque(_of_version(file.lines(), filters.version), maxlen=last)
    while True:
        yield from (json.dumps(line) if as_json else statistics_line(line) for line in lines)
        if not follow:
            return
        time.sleep(POLL_S)
        lines = _of_version(file.lines(), filters.version)


def _of_version(lines: Iterable[dict[str, Any]], version: int | None) -> Iterable[dict[str, Any]]:
    return lines if version is None else (line for line in lines if line.get("version") == version)


def _newest(
    place: Place, topic: str, held: Ranges, last: int, passes: Callable[[Record], bool], everything: bool
) -> Iterable[Record]:
    """The newest records that pass. The log's end is enough if all do; otherwise it is read from the beginning."""
    if last == 0:
        return ()
    ranges = {p: (max(first, end - last), end) for p, (first, end) in held.items()} if everything else held
    return deque(filter(passes, records_between(place.kafka, topic, ranges, place.timeout_s)), maxlen=last)


def _passes(place: Place, kind: Kind, filters: Filters, partitions: int) -> Callable[[Record], bool]:
    of = [] if filters.user is None else [of_user(kind.topic, filters.user, partitions, place.run_folder)]
    if filters.item is not None or filters.version is not None:
        of.append(lambda record: _is_about(decode(kind.model, record.value), filters))
    return lambda record: all(selects(record) for selects in of)


def _is_about(message: Message | str, filters: Filters) -> bool:
    if isinstance(message, str):
        return False
    if filters.version is not None and cast(RolloutGroup, message).parameter_version != filters.version:
        return False
    return filters.item is None or filters.item in _items(message)


def _items(message: Message) -> list[int]:
    if isinstance(message, Session):
        return [one.item_id for one in message.impressions]
    return [message.item.item_id] if isinstance(message, ItemEvent) else cast(RolloutGroup, message).item_ids


def _told(record: Record, kind: Kind, as_json: bool) -> str:
    message = decode(kind.model, record.value)
    if not as_json:
        return record_line(record, message)
    where = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "key": text_of(record.key),
    }
    if isinstance(message, str):
        return json.dumps(where | {"invalid": message, "value": text_of(record.value)})
    return json.dumps(where | {"message": message.model_dump(mode="json")})
