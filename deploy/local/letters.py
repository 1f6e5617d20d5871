"""The dead letters of a run, read from their topic while the broker is still there."""

from __future__ import annotations

import time
from typing import Any

from common.messages import DeadLetter, decode
from common.stream import LogReader, topic_name

SHOWN = 100
SILENCE_S = 1.0


def read_dead_letters(kafka: str, prefix: str, timeout_s: float) -> dict[str, Any]:
    """``count`` of distinct letters (one written again after a crash is one letter), and the first `SHOWN` without bytes.

    Raises:
        StreamError: the broker does not answer.
    """
    found: dict[bytes | None, Any] = {}
    reader = LogReader(kafka, topic_name(prefix, "dead-letters"), {0: 0}, timeout_s)
    try:
        silent_since = time.monotonic()
        while time.monotonic() - silent_since < SILENCE_S:
            for record in reader.poll(500, 0.2):
                silent_since = time.monotonic()
                letter = decode(DeadLetter, record.value)
                found[record.key] = letter.model_dump(exclude={"head_base64"}) if isinstance(letter, DeadLetter) else None
    finally:
        reader.close()
    return {"count": len(found), "letters": list(found.values())[:SHOWN]}
