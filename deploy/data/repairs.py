"""Dead letters on their way back: written to a file that a person edits, validated, and put where they came from.

A repaired message carries the position of the message that was refused as its origin (`common.origin`), so that it is put
back once, however often that is asked for.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.log_interval import held_ranges, records_between
from common.messages import DeadLetter, ItemEvent, Message, RolloutGroup, RolloutRequest, Session, decode
from common.origin import Origin
from common.record_file import bytes_of, text_of
from common.stream import Record, log_identity, partition_of
from deploy.data.place import Place, short_name
from deploy.data.putting import Outcome, Target, put
from deploy.data.recorded import Source

MODELS: dict[str, type[Message]] = {
    "sessions": Session,
    "items": ItemEvent,
    "rollout-requests": RolloutRequest,
    "rollout-groups": RolloutGroup,
}


class Repair(BaseModel):
    """One line of the file: where a message lay, why it was refused, and the message, to be mended."""

    model_config = ConfigDict(extra="forbid")

    topic: str
    partition: int = Field(ge=0)
    offset: int = Field(ge=0)
    reason: str
    message: dict[str, Any] | str
    """An object where the bytes are JSON, otherwise their text (`common.record_file.text_of`)."""


def read_letters(place: Place, reason: str = "", topic: str = "") -> list[DeadLetter]:
    """The dead letters whose reason holds a text and whose message lay in a topic, oldest first; each of them once.

    Raises:
        StreamError: the topic does not exist, or the broker does not answer.
    """
    name = place.topic("dead-letters")
    held = held_ranges(place.kafka, name, place.timeout_s)
    found: dict[bytes | None, DeadLetter] = {}
    for record in records_between(place.kafka, name, held, place.timeout_s):
        letter = decode(DeadLetter, record.value)
        if isinstance(letter, DeadLetter) and reason in letter.reason and (not topic or letter.topic == place.topic(topic)):
            found.setdefault(record.key, letter)
    return list(found.values())


def write_repairs(letters: list[DeadLetter], path: Path) -> None:
    """Write letters as lines to be mended.

    Raises:
        ValueError: the place is taken.
    """
    if path.exists():
        raise ValueError(f"{path} exists already: choose another name, or remove it")
    repairs = [
        Repair(topic=one.topic, partition=one.partition, offset=one.offset, reason=one.reason, message=_content(one))
        for one in letters
    ]
    path.touch(mode=0o600)  # they hold what users did
    path.write_text("".join(json.dumps(repair.model_dump()) + "\n" for repair in repairs))


def read_repairs(path: Path, place: Place) -> list[tuple[Repair, Message]]:
    """The lines of a file with their messages, all of them valid.

    Raises:
        ValueError: a line is no repair, its topic is none of this place's, or its message is not valid yet (line named).
    """
    repairs = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            repair = Repair.model_validate_json(line)
        except ValidationError as error:
            raise ValueError(f"{path} line {number}: {_first(error)}") from None
        model = MODELS.get(short_name(repair.topic))
        if model is None or repair.topic != place.topic(short_name(repair.topic)):
            raise ValueError(f"{path} line {number}: topic must be one of {place.prefix}.*, got {repair.topic!r}")
        message = decode(model, _bytes(repair.message))
        if isinstance(message, str):
            raise ValueError(f"{path} line {number} is not valid yet: {message}")
        repairs.append((repair, message))
    return repairs


def put_back(repairs: list[tuple[Repair, Message]], place: Place, dry_run: bool = False) -> dict[str, Outcome]:
    """Put valid messages on the topics that they came from, in their users' partitions; what became of them, by topic.

    Raises:
        StreamError: a topic does not exist, or the broker did not acknowledge; tried again, it puts what is missing.
    """
    outcomes = {}
    for topic in sorted({repair.topic for repair, _ in repairs}):
        target, log = Target.open(place, topic), log_identity(place.kafka, topic, place.timeout_s)
        records = [_record(repair, message, log, target.partitions) for repair, message in repairs if repair.topic == topic]
        ranges = {0: (0, len(records))}
        source = Source(log, topic, target.partitions, ranges, None, records)
        outcomes[topic] = put(source, target, dry_run=dry_run)
    return outcomes


def _record(repair: Repair, message: Message, log: str, partitions: int) -> Record:
    """The message as its producer would have sent it, with the position of the refused one as its origin."""
    partition, key, time_ms = _address(message, partitions)
    origin = Origin(log=log, topic=repair.topic, partition=repair.partition, offset=repair.offset)
    return Record(repair.topic, partition, repair.offset, time_ms, key.encode(), message.to_bytes(), [origin.header])


def _address(message: Message, partitions: int) -> tuple[int, str, int]:
    """Partition, key and time."""
    if isinstance(message, Session):
        return partition_of(message.user_id, partitions), str(message.user_id), message.time_ms
    if isinstance(message, ItemEvent):
        return 0, str(message.item.item_id), message.item.publish_ms
    assert isinstance(message, RolloutRequest | RolloutGroup)
    return message.partition, message.request_id, message.requested_ms


def _content(letter: DeadLetter) -> dict[str, Any] | str:
    head = base64.b64decode(letter.head_base64)
    try:
        body = json.loads(head)
    except ValueError:
        body = None
    return body if isinstance(body, dict) else text_of(head) or ""


def _bytes(message: dict[str, Any] | str) -> bytes | None:
    return bytes_of(message) if isinstance(message, str) else json.dumps(message).encode()


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, found['loc'])) or 'line'}: {found['msg']}"
