"""A million broken messages through what every consumer does first, a hundred thousand of them through a trainer."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path
from threading import Event

import psutil
import pytest

from common.messages import (
    Item,
    ItemEvent,
    Message,
    RecommendRequest,
    RolloutGroup,
    RolloutRequest,
    ScoreRequest,
    Session,
    User,
    UserContext,
    decode,
)
from common.stream import LogReader, partition_of
from tests.faults.conftest import Note
from tests.faults.mutations import mutated
from tests.trainer.test_loop import final
from tests.trainer.tiny_run import TinyRun, stream_sessions
from trainer.__main__ import train

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
MESSAGES = int(os.environ.get("ONEREC_FAULT_MESSAGES", "1000000"))
START_MS = 1_728_100_000_000
CONTEXT = UserContext(user_id=7, time_ms=1_700_000_000_000, profile={"age": 2})
ECHOED = {"request_id": "r", "run": "run", "topic": "t.sessions", "partition": 1, "offset": 12, "digest": "d"}


def valid() -> list[Message]:
    """One message of each kind that a consumer or a service reads."""
    group = {
        **ECHOED,
        "actor": "rollout-0",
        "parameter_version": 3,
        "reward_version": "1",
        "tokenizer_version": "t",
        "index_version": 1,
        "sampler": {"width": 2},
        "codes": [[1, 2, 3], [4, 5, 6]],
        "log_probs": [[-1.0, -2.0, -0.5]] * 2,
        "item_ids": [7, -1],
        "rewards": [0.5, None],
        "requested_ms": 1,
        "generated_ms": 2,
        "scored_ms": 3,
        "produced_ms": 4,
    }
    return [
        stream_sessions(1)[0],
        ItemEvent(item=Item(item_id=3, author_id=1), content=[[0.5, 0.25]]),
        User(user_id=3, profile={"age": 1}),
        RolloutRequest.model_validate(
            {**ECHOED, "context": CONTEXT, "tokenizer_version": "t", "index_version": 1, "requested_ms": 1}
        ),
        RolloutGroup.model_validate(group),
        ScoreRequest(context=CONTEXT, item_ids=[1, 2, 3], index_version=1),
        RecommendRequest(user_id=7, exclude=[1, 2]),
    ]


def test_decoding_never_raises_and_keeps_no_memory(note: Note) -> None:
    rng, seeds, outcomes = random.Random(0), [(type(one), one.to_bytes()) for one in valid()], Counter[str]()
    process, before = psutil.Process(), 0
    for number in range(MESSAGES):
        kind, value = seeds[number % len(seeds)]
        found = decode(kind, mutated(value, rng))
        outcomes["valid" if isinstance(found, kind) else "refused"] += 1
        if isinstance(found, str):
            assert found
            assert "\n" not in found
            assert len(found) <= 500
        if number == MESSAGES // 10:
            before = process.memory_info().rss
    grown = process.memory_info().rss - before
    note(messages=MESSAGES, outcomes=outcomes, grown_bytes=grown)
    assert outcomes["refused"] > MESSAGES // 4
    assert grown < 64 * 2**20


def test_dead_letters_equal_rejects_through_the_broker(tmp_path: Path, kafka: str, redis_url: str, note: Note) -> None:
    count, rng = MESSAGES // 10, random.Random(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEREC_REDIS__URL", redis_url)
        run = TinyRun.make(tmp_path / "run", kafka, "stream.partitions=2", "rl.rate=0", "trainer.batch_sessions=500")
        seeds = [(session.to_bytes(), partition_of(session.user_id, 2)) for session in stream_sessions(50)]
        values = [(mutated(value, rng), partition) for value, partition in rng.choices(seeds, k=count)]
        run.send_raw([(value, partition, START_MS + number) for number, (value, partition) in enumerate(values)])
        train(run.folder, Event())
    counters = final(run).state.counters
    refused = counters["sessions.rejected"]
    assert counters["sessions.consumed"] == count
    assert counters["sessions.valid"] + refused + counters["sessions.duplicates"] == count
    letters = _dead_letters(run, refused)
    assert len(letters) == len(set(letters)) == refused
    plain = sum(isinstance(decode(Session, value), str) for value, _ in values)
    assert refused >= plain > count // 4  # and those whose user became one of the other partition
    note(messages=count, dead_letters=len(letters), rejected=refused)


def _dead_letters(run: TinyRun, count: int) -> list[tuple[int, int]]:
    reader = LogReader(run.kafka, run.topic("dead-letters"), {0: 0}, 10.0)
    found: list[tuple[int, int]] = []
    while len(found) < count and (records := reader.poll(1000, 10.0)):
        letters = [json.loads(record.value or b"") for record in records]
        found += [(letter["partition"], letter["offset"]) for letter in letters]
    found += [(-1, -1) for _ in reader.poll(1, 0.5)]  # one too many
    reader.close()
    return found
