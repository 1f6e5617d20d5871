"""A run folder so small that a step takes milliseconds, and the sessions that go with it."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.item_index import ItemIndex
from common.messages import Events, Impression, Item, Label, Session, User
from common.policy import build_policy, to_blob
from common.session_log import DAY_MS, LogWriter
from common.settings import Settings, load_settings, save_settings
from common.stream import Producer, create_topics, partition_of, topic_name

USERS, ITEMS, CODES = 12, 40, 8
DAY0 = 20_000 * DAY_MS
SMALL = [
    "policy.d_model=16", "policy.heads=2", "policy.ffn=16", f"policy.codes={CODES}", "policy.feature_width=4",
    "policy.static_width=4", "policy.user_buckets=16", "policy.item_buckets=64", "policy.author_buckets=16",
    "policy.tag_buckets=16", "policy.static_buckets=16", 'policy.static_fields=["age"]', "stream.timeout_s=10",
    "redis.timeout_s=5", "split.warm_days=1", "filter.warmup=5", "filter.window=50", "trainer.batch_sessions=4",
    "trainer.learning_rate=0.01", "trainer.sparse_learning_rate=0.01", "trainer.drain_s=5", "sync.every=5",
    "rl.group_size=8", "rl.groups_per_step=2",
]  # fmt: skip


def tiny_settings(*overrides: str) -> Settings:
    return load_settings(overrides=[*SMALL, *overrides])


def tiny_index() -> ItemIndex:
    rng = np.random.default_rng(0)
    keys = rng.choice(CODES**3, ITEMS, replace=False)
    sids = np.stack([keys // CODES**2, keys // CODES % CODES, keys % CODES], 1)
    ids = np.arange(ITEMS)
    tags, vectors = (ids % 3)[:, None], rng.normal(size=(ITEMS, 4))
    return ItemIndex.build(
        1, "t", CODES, item_ids=ids, sids=sids, author=ids % 5, tags=tags, music=ids * 0, duration_ms=ids * 0 + 9000,
        publish_ms=ids * 0, popularity=ids * 0.5, vectors=vectors,
    )  # fmt: skip


def grown_index(version: int) -> ItemIndex:
    """A later snapshot: two more items per version after the first, in semantic IDs that no item had."""
    index, ids = tiny_index(), ITEMS + np.arange(2 * (version - 1))
    if version == 1:
        return index
    free = np.setdiff1d(np.arange(CODES**3), index.keys(index.sids))[: len(ids)]
    sids = np.stack([free // CODES**2, free // CODES % CODES, free % CODES], 1)
    zeros, vectors = ids * 0, np.ones((len(ids), 4))
    return index.extended(
        version,
        item_ids=ids,
        sids=sids,
        author=zeros,
        tags=zeros[:, None],
        music=zeros,
        duration_ms=zeros + 9000,
        publish_ms=zeros,
        popularity=zeros,
        vectors=vectors,
    )


def session(number: int, day: float, rng: np.random.Generator, user: int | None = None, items: int = ITEMS) -> Session:
    time_ms = int(DAY0 + day * DAY_MS)
    impressions = [
        Impression(
            item_id=int(rng.integers(items)), time_ms=time_ms + k, play_ms=int(rng.integers(1, 20_000)), duration_ms=9000,
            labels=Label.CLICK, tab=1,
        )
        for k in range(3)
    ]  # fmt: skip
    owner = int(rng.integers(USERS)) if user is None else user
    return Session(session_id=f"s{number}", user_id=owner, time_ms=time_ms, impressions=impressions)


def stream_sessions(count: int, seed: int = 1, items: int = ITEMS) -> list[Session]:
    rng = np.random.default_rng(seed)
    return [session(n, 1 + n / count, rng, items=items) for n in range(count)]


@dataclass(frozen=True)
class TinyRun:
    """A prepared run folder and its place on the broker."""

    folder: Path
    settings: Settings
    kafka: str
    prefix: str

    @staticmethod
    def make(folder: Path, kafka: str, *overrides: str, topics: bool = True, prefix: str = "") -> TinyRun:
        """Everything a trainer needs except sessions; ``topics`` False leaves the broker alone."""
        settings = tiny_settings(*overrides)
        folder.mkdir()
        prefix = prefix or f"t{secrets.token_hex(4)}"
        history = Events(item_id=[1, 2], time_ms=[0, 0], play_ms=[0, 0], duration_ms=[0, 0], labels=[1, 256])
        users = [User(user_id=u, profile={"age": u % 3}, history=history) for u in range(USERS)]
        rng = np.random.default_rng(9)
        warm = [session(-n, n / 40, rng) for n in range(1, 31)]
        items = [Item(item_id=i) for i in range(ITEMS)]
        LogWriter(folder / "log", "tiny", Label.CLICK, ["age"]).write(items, users, warm)
        tiny_index().save(folder / "index" / "000001")
        (folder / "pretrained").mkdir()
        (folder / "pretrained" / "policy.safetensors").write_bytes(to_blob(build_policy(settings.policy, 3)))
        save_settings(settings, folder / "settings.json")
        endpoints = {"run": prefix, "kafka": kafka, "prefix": prefix, "reward": ""}
        (folder / "endpoints.json").write_text(json.dumps(endpoints))
        if topics:
            create_topics(kafka, prefix, settings.stream.partitions, settings.stream.timeout_s)
        return TinyRun(folder, settings, kafka, prefix)

    @property
    def run(self) -> str:
        """Its name, no other test's: they share one broker and one message queue."""
        return self.prefix

    def topic(self, name: str) -> str:
        return topic_name(self.prefix, name)

    def send(self, sessions: list[Session], end: bool = True) -> dict[int, int]:
        """Put sessions (by user) on the log and, at the end, tell the trainer where it ends."""
        partitions = self.settings.stream.partitions
        values = [(s.to_bytes(), partition_of(s.user_id, partitions), s.time_ms) for s in sessions]
        return self.send_raw(values, end)

    def send_raw(self, values: list[tuple[bytes, int, int]], end: bool = True) -> dict[int, int]:
        """The same for raw (value, partition, time)."""
        producer = Producer(self.kafka, 10.0)
        for value, partition, time_ms in values:
            producer.send(self.topic("sessions"), value, partition, timestamp_ms=time_ms)
        producer.flush()
        ends = {partition: last for (_, partition), last in producer.acknowledged.items()}
        producer.close()
        if end:
            self.tell_end(ends)
        return ends

    def tell_end(self, ends: dict[int, int]) -> None:
        told = {"run": self.run, "ends": {str(p): last for p, last in ends.items()}}
        (self.folder / "replay.json").write_text(json.dumps(told))
