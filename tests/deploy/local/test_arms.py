from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from io import StringIO
from uuid import uuid4

import numpy as np
import pytest
from rich.console import Console

from common.messages import Impression, Label, Session
from common.stream import Producer, create_topics, partition_of, topic_name
from deploy.local.arms import arms_table, compare, read_sessions


def session(user: int, arm: str, play_ms: int, labels: int = 0, videos: int = 2) -> Session:
    shown = [Impression(item_id=k, time_ms=1, play_ms=play_ms, labels=labels) for k in range(videos)]
    return Session(session_id=f"{arm}-{user}-{uuid4().hex}", user_id=user, time_ms=1, impressions=shown, arm=arm)


def sessions(play_ms: Callable[[str], float], users: int, seed: int) -> list[Session]:
    """Two arms whose users play about that long."""
    rng = np.random.default_rng(seed)
    return [
        session(user, arm, round(play_ms(arm) * rng.lognormal(sigma=0.5)))
        for user, arm in ((u, ("a", "b")[u % 2]) for u in range(users))
    ]


def test_a_user_counts_once_with_the_mean_of_their_sessions() -> None:
    many = [session(1, "a", 1000), session(1, "a", 3000), session(3, "a", 6000, int(Label.LIKE | Label.CLICK))]
    first, other = compare([*many, session(2, "b", 4000), session(9, "", 1)], ["a", "b"])
    assert (first.arm, first.users, first.sessions, first.lifts) == ("a", 2, 3, {})
    assert first.means["play time, s"] == (4 + 12) / 2
    assert (first.means["likes"], first.means["clicks"], first.means["follows"]) == (1, 1, 0)
    assert (other.users, other.sessions, other.means["play time, s"]) == (1, 1, 8)
    assert other.lifts["play time, s"].percent == 0
    assert "follows" not in other.lifts


def test_a_real_difference_is_certain_and_none_is_not() -> None:
    (_, longer) = compare(sessions({"a": 10_000, "b": 13_000}.__getitem__, 2000, 0), ["a", "b"])
    lift = longer.lifts["play time, s"]
    assert lift.low is not None
    assert lift.high is not None
    assert lift.low < 30 < lift.high
    assert lift.certain
    certain = [
        compare(sessions(lambda _: 10_000, 200, seed), ["a", "b"])[1].lifts["play time, s"].certain for seed in range(20)
    ]
    assert sum(certain) <= 4  # one in twenty by chance; more than four of twenty has a chance of 0.3 %


@pytest.mark.parametrize("users", [1, 3, 10, 20, 40])
def test_equal_arms_seldom_look_certain_however_few_users_they_have(users: int) -> None:
    found = [compare(sessions(lambda _: 10_000, 2 * users, seed), ["a", "b"])[1] for seed in range(60)]
    assert sum(one.lifts["play time, s"].certain for one in found) <= 9  # by chance more have 1 %, if one in fifteen is
    assert all((one.lifts["play time, s"].low is None) == (users < 20) for one in found)


def test_the_first_arm_must_have_sessions() -> None:
    with pytest.raises(ValueError, match="no session came back with the arm 'a'; arms with sessions: b"):
        compare([session(1, "b", 5)], ["a", "b"])


def test_the_table_shows_lifts_and_what_has_none() -> None:
    def table(users: int) -> str:
        shown = [session(user, arm, 1000 if arm == "a" else 1500) for user in range(users) for arm in ("a", "b")]
        console = Console(width=120, record=True, file=StringIO())
        console.print(arms_table(compare(shown, ["a", "b"])))
        return console.export_text()

    assert "+50.0 % (+50.0 to +50.0)" in table(20)
    assert "b over a" in table(20)
    assert "+50.0 %" in table(19)
    assert "to +50.0" not in table(19)


def test_sessions_are_read_once_each(kafka: str) -> None:
    prefix, one = f"arms{uuid4().hex[:8]}", session(1, "a", 5)
    create_topics(kafka, prefix, 2, 10.0)
    assert read_sessions(kafka, prefix, 10.0) == []
    with closing(Producer(kafka, 10.0)) as producer:
        for each in (one, session(2, "b", 6), one):
            producer.send(topic_name(prefix, "sessions"), each.to_bytes(), partition_of(each.user_id, 2))
        producer.send(topic_name(prefix, "sessions"), b"nonsense", 0)
    found = read_sessions(kafka, prefix, 10.0)
    assert sorted(each.user_id for each in found) == [1, 2]
    assert one in found
