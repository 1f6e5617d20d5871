"""The fleet as a process: real Ray, real Kafka, real Redis, a tiny policy, and a reward service that can kill actors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import psutil
import pytest

from common.messages import DeadLetter, Message, RolloutGroup, ScoreRequest, decode
from common.parameter_channel import Publisher
from common.policy import build_policy, to_blob
from common.settings import Settings
from common.stream import TOPICS, LogReader, Producer, Record, create_topics, topic_name
from rollout.ledger import Ledger
from tests.rollout.reward_stub import RewardStub
from tests.rollout.tiny_run import tiny_request, write_run

PARTITIONS = 2
POISON, UNLUCKY = 666, 13


@dataclass
class Stack:
    """Everything around a fleet."""

    folder: Path
    settings: Settings
    kafka: str
    redis_url: str
    prefix: str
    producer: Producer
    publisher: Publisher

    def send(self, value: bytes, partition: int) -> None:
        self.producer.send(topic_name(self.prefix, "rollout-requests"), value, partition)

    def read(self, name: str, count: int, timeout_s: float = 60.0) -> list[bytes]:
        """Values of a topic: waits for ``count``, then a little longer for any that are too many."""
        return [record.value or b"" for record in self.records(name, count, timeout_s)]

    def records(self, name: str, count: int, timeout_s: float = 60.0) -> list[Record]:
        records: list[Record] = []
        deadline = time.monotonic() + timeout_s
        positions = dict.fromkeys(range(TOPICS[name].count(PARTITIONS)), 0)
        with closing(LogReader(self.kafka, topic_name(self.prefix, name), positions, 10.0)) as reader:
            while len(records) < count and time.monotonic() < deadline:
                records += reader.poll(1000, 0.2)
            return records + reader.poll(1000, 1.0)

    @contextmanager
    def fleet(self) -> Iterator[subprocess.Popen[bytes]]:
        """A running fleet that has announced itself; killed in the end."""
        ready = self.folder / "ready" / "rollout.json"
        ready.unlink(missing_ok=True)
        log = self.folder / "rollout.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "rollout", "--run-folder", str(self.folder)],
                env=os.environ | {"ONEREC_REDIS__URL": self.redis_url},
                stdout=output,
                stderr=output,
            )
        try:
            await_that(lambda: ready.exists() or process.poll() is not None, 90, lambda: log.read_text()[-3000:])
            assert process.poll() is None, log.read_text()[-3000:]
            yield process
        finally:
            process.kill()
            process.wait()


class Saboteur:
    """Kills the actor that asks for scores of the poisoned user, always; stops the one of the unlucky user, once."""

    def __init__(self) -> None:
        self.kills: Counter[int] = Counter()

    def __call__(self, request: ScoreRequest, port: int) -> None:
        user = request.context.user_id
        if user == POISON or (user == UNLUCKY and not self.kills[user]):
            self.kills[user] += 1
            pids = {c.pid for c in psutil.net_connections("tcp") if c.laddr and c.laddr[1] == port and c.pid != os.getpid()}
            for pid in pids - {None}:
                os.kill(int(str(pid)), signal.SIGKILL if user == POISON else signal.SIGSTOP)


def await_that(condition: Callable[[], bool], timeout_s: float, explain: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {explain()}"
        time.sleep(0.05)


M = TypeVar("M", bound=Message)


def decoded(model: type[M], values: list[bytes]) -> list[M]:
    messages = [decode(model, value) for value in values]
    assert all(isinstance(message, model) for message in messages), messages
    return [message for message in messages if isinstance(message, model)]


@pytest.fixture
def saboteur() -> Saboteur:
    return Saboteur()


@pytest.fixture
def stack(tmp_path: Path, kafka: str, redis_url: str, saboteur: Saboteur) -> Iterator[Stack]:
    """A run with its topics, a reward service under sabotage, and version 0 published by the trainer's side."""
    prefix = f"fleet-{uuid.uuid4().hex[:8]}"
    create_topics(kafka, prefix, PARTITIONS, 30.0)
    with RewardStub(hook=saboteur) as stub:
        endpoints = {"run": prefix, "kafka": kafka, "prefix": prefix, "reward": stub.url}
        more = [
            "rollout.actors=2",
            "rollout.batch=3",
            "rollout.attempts=2",
            "rollout.timeout_s=20",
            f"stream.partitions={PARTITIONS}",
        ]
        settings = write_run(tmp_path, endpoints, more)
        with closing(Producer(kafka, 30.0)) as producer, closing(Publisher(redis_url, prefix, 600, 5.0)) as publisher:
            publisher.publish(0, to_blob(build_policy(settings.policy)))
            yield Stack(tmp_path, settings, kafka, redis_url, prefix, producer, publisher)


def processes_of(fleet: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [child for child in psutil.Process(fleet.pid).children(recursive=True) if child.is_running()]


def test_every_request_is_answered_once_although_actors_die_and_hang(stack: Stack, saboteur: Saboteur) -> None:
    users = [*range(20), POISON]
    requests = {user: tiny_request(user, stack.prefix) for user in users}
    stack.send(tiny_request(99, stack.prefix).to_bytes(), 0)
    answered_by_an_earlier_fleet(stack)
    (stack.folder / "rollout_stats.jsonl").write_text('{"time_ms": 17, "act')  # it was killed while it wrote
    with stack.fleet() as fleet:
        ours = processes_of(fleet)
        for user, request in requests.items():
            stack.send(request.to_bytes(), user % PARTITIONS)
        stack.send(requests[4].to_bytes(), 1)  # sent again after a crash of the trainer
        stack.send(b"{broken", 0)
        stack.send(tiny_request(1, "another").to_bytes(), 1)
        stack.producer.flush()
        records = stack.records("rollout-groups", len(users))
        groups = decoded(RolloutGroup, [record.value or b"" for record in records])
        letters = decoded(DeadLetter, stack.read("dead-letters", 3))
        metrics = json.loads((stack.folder / "ready" / "rollout.json").read_text())["metrics"]
        shown = httpx.get(metrics, timeout=5.0).text
        assert "onerec_rollout_requests_duplicate_total 1.0" in shown
        assert all(f'onerec_rollout_actors_number{{state="{state}"}}' in shown for state in ("idle", "busy", "starting"))
        fleet.send_signal(signal.SIGTERM)
        assert fleet.wait(30) == 0
    _, alive = psutil.wait_procs(ours, timeout=15)

    assert Counter(group.request_id for group in groups) == Counter(request.request_id for request in requests.values())
    lies = {group.offset: record.partition for record, group in zip(records, groups, strict=True)}
    assert all(lies[user] == user % PARTITIONS for user in users if user != 4)  # 4 was asked for in both
    failed = {group.offset: group.failure for group in groups if group.failure}
    assert failed.keys() == {POISON}
    assert failed[POISON].startswith("gave up after 2 attempts")
    assert saboteur.kills == {POISON: 2, UNLUCKY: 1}
    reasons = sorted(letter.reason for letter in letters)
    assert len(reasons) == 3
    assert all(any(word in reason for reason in reasons) for word in ("gave up after 2", "another", "JSON"))
    positions = json.loads((stack.folder / "fleet.json").read_text())["positions"]
    assert sum(positions.values()) == 1 + len(users) + 3
    assert not alive
    assert_statistics(stack, len(users) - 1)


def answered_by_an_earlier_fleet(stack: Stack) -> None:
    """The first request of partition 0 is settled on disk, so a new fleet must not answer it again."""
    ledger = Ledger(stack.folder / "fleet.json", stack.prefix, PARTITIONS)
    ledger.frontiers[0].begin(0)
    ledger.frontiers[0].settle(0)
    ledger.save()


def assert_statistics(stack: Stack, answered: int) -> None:
    lines = [json.loads(line) for line in (stack.folder / "rollout_stats.jsonl").read_text().splitlines()]
    assert sum(line["requests"] for line in lines) == answered
    assert {line["actor"] for line in lines} == {"rollout-0", "rollout-1"}
    assert all(line["version"] == 0 and line["generate_ms"] > 0 and 0 <= line["legality"] <= 1 for line in lines)


def test_a_killed_fleet_takes_its_processes_along(stack: Stack) -> None:
    with stack.fleet() as fleet:
        ours = processes_of(fleet)
        assert {"raylet", "gcs_server"} <= {process.name() for process in ours}
        fleet.kill()
        _, alive = psutil.wait_procs(ours, timeout=15)
    assert not alive
