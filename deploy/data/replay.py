"""Replays a session log onto the topics ``sessions`` and ``items``, as fast as possible or at a multiple of real time.

Consumes: a log folder. Produces: one record per session, keyed and partitioned by its user, and one per item that is
published from the first replayed day on, all stamped with their own times and in that order.
Waits for: the broker's acknowledgements, and the clock when paced. Unblocked by: the producer's timeout.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.messages import ItemEvent, Session
from common.session_log import DAY_MS, SessionLog
from common.stream import Producer, StreamError, partition_of, topic_name
from deploy.data.clock import TICK_S, Clock

END_FILE = "replay.json"
BATCH = 1000
ATTEMPTS = 4


def replay(
    log: SessionLog,
    bootstrap: str,
    prefix: str,
    partitions: int,
    first_day: int = 0,
    last_day: int | None = None,
    speed: float = 0.0,
    run_folder: Path | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
    timeout_s: float = 30.0,
) -> dict[int, int]:
    """Send the sessions of the days ``first_day..last_day`` and the items published since; returns each session
    partition's last acknowledged offset (-1: none). Items published after the last session follow at the end.

    ``speed`` 0 sends as fast as possible, 1 in real time, 3600 an hour in a second. With a run folder, its
    ``replay.json`` then tells readers where the finite log ends; it is absent until everything is acknowledged.

    Raises:
        ValueError: an argument is out of range, or these days hold no sessions.
        StreamError: the broker did not acknowledge, in time, after some attempts.
    """
    if partitions < 1 or speed < 0:
        raise ValueError(f"partitions must be >= 1 and speed >= 0, got {partitions} and {speed}")
    if run_folder is not None:
        (run_folder / END_FILE).unlink(missing_ok=True)
    topic = topic_name(prefix, "sessions")
    sent, items, day = 0, 0, -1
    producer = Producer(bootstrap, timeout_s)
    try:
        for batch in _batches(log, (first_day, last_day), speed):
            _deliver(producer, prefix, partitions, batch)
            sessions = [entry for entry in batch if isinstance(entry.message, Session)]
            sent, items = sent + len(sessions), items + len(batch) - len(sessions)
            if sessions and log.day_of(sessions[-1].time_ms) != day:
                day = log.day_of(sessions[-1].time_ms)
                on_progress(f"replaying day {day}, {sent:,} sessions and {items:,} new items sent")
        ends = {p: producer.acknowledged.get((topic, p), -1) for p in range(partitions)}
    finally:
        producer.close()
    if sent == 0:
        raise ValueError(f"{log.path} has no sessions on days {first_day}..{'end' if last_day is None else last_day}")
    if run_folder is not None:
        _write_ends(run_folder, ends)
    on_progress(f"replayed {sent:,} sessions and {items:,} new items")
    return ends


@dataclass(frozen=True, slots=True)
class _Entry:
    """A message and when it happened."""

    time_ms: int
    message: Session | ItemEvent

    def place(self, partitions: int) -> tuple[str, int, bytes]:
        """Topic, partition and key."""
        if isinstance(self.message, Session):
            user = self.message.user_id
            return "sessions", partition_of(user, partitions), str(user).encode()
        return "items", 0, str(self.message.item.item_id).encode()


def _entries(log: SessionLog, days: tuple[int, int | None]) -> Iterator[tuple[_Entry, int]]:
    """What is sent, and when it is due: in its own time, but an item that is published after the last session with that."""
    ended_ms: list[int] = []

    def sessions() -> Iterator[_Entry]:
        time_ms = 0
        for session in log.sessions(*days):
            time_ms = session.time_ms
            yield _Entry(time_ms, session)
        ended_ms.append(time_ms)

    for entry in heapq.merge(sessions(), _new_items(log, days[0]), key=lambda entry: entry.time_ms):
        yield entry, min([entry.time_ms, *ended_ms])


def _new_items(log: SessionLog, first_day: int) -> Iterator[_Entry]:
    """Items published since the first replayed day, with their content vectors, by time."""
    since_ms, content = log.manifest.day0_ms + first_day * DAY_MS, log.content()
    rows = [(item.publish_ms, row, item) for row, item in enumerate(log.items()) if item.publish_ms >= since_ms]
    for time_ms, row, item in sorted(rows, key=lambda entry: entry[:2]):
        vectors = [] if content is None else content.tokens[row][content.mask[row]].tolist()
        yield _Entry(time_ms, ItemEvent(item=item, content=vectors))


def _batches(log: SessionLog, days: tuple[int, int | None], speed: float) -> Iterator[list[_Entry]]:
    """What is due, in batches of at most `BATCH`; sleeps until the next message is due."""
    clock = Clock(speed)
    batch: list[_Entry] = []
    for entry, due_ms in _entries(log, days):
        wait = clock.ahead_s(due_ms)
        if batch and (wait > TICK_S or len(batch) == BATCH):
            yield batch
            batch = []
            wait = clock.ahead_s(due_ms)
        if wait > TICK_S:
            time.sleep(wait)
        batch.append(entry)
    if batch:
        yield batch


def _deliver(producer: Producer, prefix: str, partitions: int, batch: list[_Entry]) -> None:
    """Send a batch until the broker has all of it: what a failure leaves unsure is sent again (readers drop repeats)."""
    for attempt in range(ATTEMPTS):
        try:
            for entry in batch:
                name, partition, key = entry.place(partitions)
                producer.send(topic_name(prefix, name), entry.message.to_bytes(), partition, key, entry.time_ms)
            producer.flush()
            return
        except StreamError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0.5, 1.0) * 2**attempt)


def _write_ends(run_folder: Path, ends: dict[int, int]) -> None:
    endpoints = run_folder / "endpoints.json"
    run = json.loads(endpoints.read_text())["run"] if endpoints.is_file() else run_folder.name
    part = run_folder / f".{END_FILE}"
    part.write_text(json.dumps({"run": run, "ends": {str(p): end for p, end in ends.items()}}))
    os.replace(part, run_folder / END_FILE)
