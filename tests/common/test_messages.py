from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import MOST_TAGS, NO_ITEM, Events, Impression, Item, RolloutGroup, Sampler, Session, decode

SESSION = Session(session_id="s1", user_id=3, time_ms=10, impressions=[Impression(item_id=1, time_ms=10, play_ms=5)])


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(SESSION.to_bytes()) | fields).encode()


def test_a_valid_session_survives_the_wire() -> None:
    assert decode(Session, SESSION.to_bytes()) == SESSION
    assert SESSION.play_ms == 5


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (
            changed(impressions=[{"item_id": 1, "time_ms": 1, "duration_ms": -5}]),
            "impressions.0.duration_ms: Input should be greater",
        ),
        (changed(user_id=None), "user_id: Input should be a valid integer"),
        (
            json.dumps({k: v for k, v in json.loads(SESSION.to_bytes()).items() if k != "user_id"}).encode(),
            "user_id: Field required",
        ),
        (changed(surprise=1), "surprise: Extra inputs are not permitted"),
        (SESSION.to_bytes()[:-7], "message: Invalid JSON"),
        (b"\xff\x00" * 131_072, "message: Invalid JSON"),
        (changed(schema_version=2), "upgrade consumers first"),
        (changed(schema_version=2, surprise=1, user_id="new kind"), "upgrade consumers first"),
        (changed(schema_version="x"), "schema_version must be 1, got 'x'"),
        (changed(impressions=[]), "impressions: List should have at least 1 item"),
        (None, "empty message"),
    ],
)
def test_bad_sessions_are_refused_with_one_line(value: bytes | None, reason: str) -> None:
    got = decode(Session, value)
    assert isinstance(got, str)
    assert reason in got
    assert "\n" not in got


@given(st.binary(max_size=300))
def test_decode_never_raises(value: bytes) -> None:
    assert isinstance(decode(Session, value), str | Session)


def group(**fields: Any) -> RolloutGroup:
    base: dict[str, Any] = {
        "request_id": "r", "run": "x", "topic": "t", "partition": 0, "offset": 1, "digest": "d", "actor": "a",
        "parameter_version": 0, "tokenizer_version": "t", "index_version": 1, "sampler": Sampler(),
        "codes": [[1, 2], [3, 4]],
        "log_probs": [[-1.0, -2.0], [-1.5, -2.5]], "item_ids": [9, NO_ITEM], "rewards": [0.5, None],
        "requested_ms": 1, "produced_ms": 2,
    }  # fmt: skip
    return RolloutGroup(**(base | fields))


def test_a_group_has_rewards_for_items_only() -> None:
    assert decode(RolloutGroup, group().to_bytes()) == group()
    with pytest.raises(ValueError, match="an illegal candidate has none"):
        group(rewards=[0.5, 0.0])
    with pytest.raises(ValueError, match="one length"):
        group(rewards=[0.5])
    with pytest.raises(ValueError, match="either candidates or a failure"):
        group(failure="reward service: timed out")
    with pytest.raises(ValueError, match="one entry per level"):
        group(log_probs=[[-1.0], [-1.5]])


def test_event_columns_must_agree() -> None:
    with pytest.raises(ValueError, match="one length"):
        Events(item_id=[1, 2], time_ms=[1], play_ms=[1], duration_ms=[1], labels=[1])


def test_an_item_has_so_many_tags_at_most() -> None:
    """The index has as many columns of tags as the item with the most has."""
    assert not isinstance(decode(Item, Item(item_id=1, tags=[7] * MOST_TAGS).to_bytes()), str)
    told = decode(Item, b'{"item_id": 1, "tags": [%s]}' % b",".join([b"7"] * (MOST_TAGS + 1)))
    assert isinstance(told, str)
    assert "tags" in told
    assert str(MOST_TAGS) in told
