from __future__ import annotations

from typing import Any

import pytest

from common.messages import DeadLetter, Impression, Item, ItemEvent, Label, Message, RolloutGroup, Sampler, Session
from common.stream import Record
from deploy.data.lines import WIDTH, record_line, statistics_line

NOON_MS = 1_704_110_400_000
GROUP: dict[str, Any] = {
    "request_id": "r", "run": "x", "topic": "x.sessions", "partition": 1, "offset": 7, "digest": "d", "actor": "rollout-0",
    "parameter_version": 40, "tokenizer_version": "t", "index_version": 2, "sampler": Sampler(),
    "requested_ms": 0, "produced_ms": 0,
}  # fmt: skip
CANDIDATES: dict[str, Any] = {
    "codes": [[1], [2]],
    "log_probs": [[-1.0], [-2.0]],
    "item_ids": [5, -1],
    "rewards": [0.25, None],
}


def said(message: Message | str) -> str:
    line = record_line(Record("x.sessions", 1, 7, NOON_MS, None, b"", []), message)
    assert line.startswith("2024-01-01 12:00:00  1/7  ")
    return line.partition("  1/7  ")[2]


SEEN = [Impression(item_id=8, time_ms=1, play_ms=1500, labels=Label.CLICK), Impression(item_id=9, time_ms=2)]
SESSION = Session(session_id="s", user_id=3, time_ms=1, impressions=SEEN)
NEW = ItemEvent(item=Item(item_id=4, title="A title"), content=[[1.0], [2.0]])
LETTER = DeadLetter(topic="a.b.sessions", partition=0, offset=5, reason="bad", length=1200, xxh128="", head_base64="")


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            Session(session_id="s", user_id=3, time_ms=1, impressions=SEEN),
            "user 3  2 shown, 1.5 s played, 1 click  items 8 9",
        ),
        (RolloutGroup(**GROUP, **CANDIDATES), "session 1/7  version 40  2 candidates, 1 legal, reward 0.2500"),
        (RolloutGroup(**GROUP, failure="no reward"), "session 1/7  version 40  FAILED: no reward"),
        (NEW, "item 4  new, 2 content vectors  A title"),
        (ItemEvent(item=Item(item_id=4), removed=True), "item 4  removed"),
        (LETTER, "sessions 0/5  bad  (1,200 bytes)"),
        ("user_id: Field required", "not valid: user_id: Field required"),
    ],
)
def test_what_a_message_says(message: Message | str, line: str) -> None:
    assert said(message) == line


def test_a_line_stays_one_line_of_the_terminals_width() -> None:
    line = record_line(Record("t", 0, 0, 0, None, b"", []), "two\nlines \x1b[31m" + 200 * "x")
    assert len(line) == WIDTH
    assert line.isprintable()
    assert line.endswith("…")


def test_steps_and_groups_of_the_statistics() -> None:
    counters = {"sessions.consumed": 1600, "groups.trained": 12}
    step: dict[str, Any] = {"kind": "step", "step": 1200, "time_ms": NOON_MS, "seconds": 0.0123, "version": 1000}
    step |= {"counters": counters, "targets": 50, "loss_per_level": [1.5, 2.0]}
    expected = "2024-01-01 12:00:00  step 1,200  12 ms  loss 3.500  1,600 sessions  12 groups  version 1000"
    assert statistics_line(step) == expected
    assert "no targets" in statistics_line(step | {"targets": 0, "loss_per_level": []})
    group: dict[str, Any] = {"kind": "group", "step": 7, "request": [1, 9], "outcome": "trained", "version": 5}
    group |= {"legal_share": 0.5, "mean_reward": 0.125}
    assert statistics_line(group) == "step 7  group for session 1/9  trained  version 5  50 % legal  mean reward 0.1250"
    assert (
        statistics_line({"kind": "group", "step": 7, "request": None, "outcome": "invalid"})
        == "step 7  group of nobody  invalid"
    )
