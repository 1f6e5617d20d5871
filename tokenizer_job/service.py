"""The online tokenizer: follows the topic of items and publishes index snapshots.

consumes:     items (Kafka)
produces:     item index snapshots (disk), dead-letters (Kafka)
waits for:    items; for `tokenizer.online.publish_every_s` between two snapshots
unblocked by: new records, the clock, the stop event
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from threading import Event

from common.item_index import ItemIndex, latest_index, prune, read_note, snapshot_path
from common.messages import ItemEvent, decode
from common.metrics import (
    TOKENIZER_DEAD_LETTERS,
    TOKENIZER_DRIFT_ALARM,
    TOKENIZER_EMPTY_SHARE,
    TOKENIZER_INDEX_VERSION,
    TOKENIZER_INDEXED_ITEMS,
    TOKENIZER_ITEMS,
    TOKENIZER_PUBLISH_SECONDS,
    TOKENIZER_RESIDUAL_RATIO,
    TOKENIZER_STREAM_LAG,
)
from common.probes import PULSE
from common.session_log import DAY_MS
from common.settings import Settings
from common.stream import TOPICS, LogReader, Producer, Record, check_topics, dead_letter, dead_letter_key, topic_name
from tokenizer_job.drift import Drift
from tokenizer_job.online import OnlineTokenizer
from tokenizer_job.tokenizer import Tokenizer

AHEAD_MS = DAY_MS
"""How far ahead of now an item may be published: clocks differ, and some items are announced."""
POLL_S = 0.2
POLL_RECORDS = 500
log = logging.getLogger(__name__)


class ItemFollower:
    """Carries the newest snapshot forward. Its note holds the stream positions: a restart loses and repeats nothing."""

    def __init__(self, folder: Path, kafka: str, prefix: str, settings: Settings) -> None:
        """Open the run's tokenizer and newest snapshot, and read on from the positions that it names.

        Raises:
            ValueError: there is no tokenizer or no snapshot, or they do not belong together.
            StreamError: a topic is missing or has another number of partitions, or the log no longer has the positions.
        """
        check_topics(kafka, prefix, settings.stream.partitions, settings.stream.timeout_s)
        self.indexes, self.settings = folder / "index", settings.tokenizer.online
        newest = latest_index(self.indexes)
        note = read_note(newest)
        drift = Drift.model_validate(note["drift"]) if "drift" in note else None
        tokenizer = Tokenizer.load(folder / "tokenizer")
        removed = note.get("removed", [])
        self.online = OnlineTokenizer(tokenizer, ItemIndex.load(newest), self.settings, drift, removed)
        self.items, self.letters = topic_name(prefix, "items"), topic_name(prefix, "dead-letters")
        partitions = range(TOPICS["items"].count(settings.stream.partitions))
        positions = {partition: int(note.get("positions", {}).get(str(partition), 0)) for partition in partitions}
        self.reader = LogReader(kafka, self.items, positions, settings.stream.timeout_s)
        self.producer = Producer(kafka, settings.stream.timeout_s)
        self.oldest_s: float | None = None
        self._show()

    def run(self, stop: Event) -> None:
        """Follow until ``stop``; what waits then is still published."""
        while not stop.is_set():
            PULSE.beat()
            self.take(self.reader.poll(POLL_RECORDS, POLL_S))
            if self.oldest_s is not None and time.monotonic() - self.oldest_s >= self.settings.publish_every_s:
                self.publish()
        self.publish()

    def take(self, records: list[Record]) -> None:
        """Remember what happened to items; what is no valid message, or cannot be encoded, becomes a dead letter."""
        for record in records:
            event = decode(ItemEvent, record.value)
            try:
                if isinstance(event, str):
                    raise ValueError(event)
                _check_time(event)
                TOKENIZER_ITEMS.labels(self.online.take(event)).inc()
            except ValueError as error:
                TOKENIZER_DEAD_LETTERS.inc()
                log.warning("%s offset %d becomes a dead letter: %s", record.topic, record.offset, error)
                letter = dead_letter(record, str(error)).to_bytes()
                self.producer.send(self.letters, letter, 0, dead_letter_key(record))
        if self.oldest_s is None and self.online.waiting:
            self.oldest_s = time.monotonic()
        for partition, lag in self.reader.lag().items():
            TOKENIZER_STREAM_LAG.labels(partition).set(lag)

    def publish(self) -> None:
        """Write the next snapshot, if anything changed, and remove those that nobody needs."""
        self.producer.flush()  # dead letters are out before the positions move past them
        self.oldest_s = None
        index = self.online.next_index()
        if index is None:
            return
        with TOKENIZER_PUBLISH_SECONDS.time():
            drift, removed = self.online.drift.model_dump(), self.online.removed
            note = {"positions": self.reader.positions, "drift": drift, "removed": removed}
            index.save(snapshot_path(self.indexes, index.version), note)
        prune(self.indexes, self.settings.keep_snapshots)
        log.info("published item index %d with %d items", index.version, len(index))
        self._show()

    def close(self) -> None:
        """Close the connections."""
        self.reader.close()
        self.producer.close()

    def _show(self) -> None:
        drift, alarm = self.online.drift, self.online.drift.alarms(self.settings.drift_alarm)
        TOKENIZER_INDEX_VERSION.set(self.online.index.version)
        TOKENIZER_INDEXED_ITEMS.set(len(self.online.index))
        TOKENIZER_RESIDUAL_RATIO.set(drift.ratio)
        TOKENIZER_EMPTY_SHARE.set(drift.empty_share)
        TOKENIZER_DRIFT_ALARM.set(alarm)
        if alarm:
            log.warning(
                "drift: the codes leave %.0f %% more of %d new items than of the catalogue they were fitted on; "
                "plan a refit with the next pre-training",
                100 * (drift.ratio - 1),
                drift.items,
            )


def _check_time(event: ItemEvent) -> None:
    """One item of a wrong time would set the clock by which all others expire."""
    published, latest = event.item.publish_ms, time.time_ns() // 1_000_000 + AHEAD_MS
    if published > latest:
        raise ValueError(f"item.publish_ms must be at most a day ahead of now, {latest}, got {published}")
