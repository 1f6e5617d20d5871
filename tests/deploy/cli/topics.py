"""Topics of a test's own on the shared broker, and what lies in them."""

from __future__ import annotations

import secrets
from contextlib import closing
from dataclasses import dataclass

from common.log_interval import held_ranges, records_between
from common.messages import Impression, Session
from common.stream import Producer, Record, create_topics, partition_of

TIMEOUT_S = 10.0
USERS, COUNT, FIRST_MS = 5, 40, 1_704_067_200_000
"""One session a second from 2024-01-01T00:00:00Z on, user after user."""


@dataclass(frozen=True)
class Topics:
    """The topics below a prefix of a test's own."""

    kafka: str
    prefix: str

    @staticmethod
    def make(kafka: str, partitions: int = 2) -> Topics:
        topics = Topics(kafka, f"cli{secrets.token_hex(4)}")
        create_topics(kafka, topics.prefix, partitions, TIMEOUT_S)
        return topics

    def name(self, topic: str = "sessions") -> str:
        return f"{self.prefix}.{topic}"

    def fill(self) -> list[Session]:
        seen = [[Impression(item_id=k, time_ms=FIRST_MS)] for k in range(COUNT)]
        sessions = [
            Session(session_id=f"s{k}", user_id=k % USERS, time_ms=FIRST_MS + 1000 * k, impressions=seen[k])
            for k in range(COUNT)
        ]
        with closing(Producer(self.kafka, TIMEOUT_S)) as producer:
            for one in sessions:
                key, home = str(one.user_id).encode(), partition_of(one.user_id, 2)
                producer.send(self.name(), one.to_bytes(), home, key, one.time_ms, [("trace", b"\xff")])
        return sessions

    def records(self, topic: str = "sessions") -> list[Record]:
        held = held_ranges(self.kafka, self.name(topic), TIMEOUT_S)
        return list(records_between(self.kafka, self.name(topic), held, TIMEOUT_S))

    def where(self) -> tuple[str, ...]:
        return ("--kafka", self.kafka, "--prefix", self.prefix)
