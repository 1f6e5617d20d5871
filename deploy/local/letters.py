"""The dead letters of a run, read from their topic while the broker is still there."""

from __future__ import annotations

import time
from typing import Any

from common.log_interval import beginnings
from common.messages import DeadLetter, decode
from common.stream import LogReader, Record, StreamError, topic_name

SHOWN = 100
SILENCE_S = 1.0
POLL_S = 0.2
Letter = dict[str, Any]
"""A letter without its bytes."""


class LetterBox:
    """Follows the dead letters of a run that its topic still has. One that was written again after a crash is one letter."""

    def __init__(self, kafka: str, prefix: str, timeout_s: float) -> None:
        """Raises StreamError if the broker does not answer or lacks the topic."""
        topic = topic_name(prefix, "dead-letters")
        self._kafka, self._timeout_s = kafka, timeout_s
        self._reader = LogReader(kafka, topic, beginnings(kafka, topic, timeout_s), timeout_s)
        self._seen: set[bytes | None] = set()

    @property
    def count(self) -> int:
        """Letters so far."""
        return len(self._seen)

    def take(self, silence_s: float = 0.0) -> list[Letter]:
        """Letters new since the last call: all that the topic has, and then until nothing has come for ``silence_s``.

        Raises:
            StreamError: the broker does not answer, or does not give what it has.
        """
        new, silent_since = list[Letter](), time.monotonic()
        while True:
            records = self._reader.poll(500, POLL_S)
            new += [letter for record in records if (letter := self._opened(record)) is not None]
            silent_s = time.monotonic() - silent_since
            if records:
                silent_since = time.monotonic()
            elif not any(self._reader.lag().values()):
                if silent_s >= silence_s:
                    return new
            elif silent_s >= self._timeout_s:
                raise StreamError(f"Kafka at {self._kafka} gave no dead letters for {silent_s:.0f} s, but has some")

    def _opened(self, record: Record) -> Letter | None:
        """A letter that was not there before; None for one that was, and for what is no letter, which counts as one."""
        if record.key in self._seen:
            return None
        self._seen.add(record.key)
        letter = decode(DeadLetter, record.value)
        return letter.model_dump(exclude={"head_base64"}) if isinstance(letter, DeadLetter) else None

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()


def read_dead_letters(kafka: str, prefix: str, timeout_s: float) -> dict[str, Any]:
    """``count`` of distinct letters, and the newest `SHOWN` of them without bytes, last one last.

    Raises:
        StreamError: the broker does not answer.
    """
    box = LetterBox(kafka, prefix, timeout_s)
    try:
        letters = box.take(SILENCE_S)
        return {"count": box.count, "letters": letters[-SHOWN:]}
    finally:
        box.close()
