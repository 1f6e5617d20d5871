"""The endpoint over a real broker and a real Redis: requests in, lists out, while parameters and histories change."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fastapi.testclient import TestClient

from common.endpoints import Endpoints
from common.messages import Impression, Item, Label, RecommendRequest, RecommendResponse, Session, User
from common.parameter_channel import Publisher
from common.policy import build_policy, to_blob
from common.session_log import LogWriter
from common.settings import RecommendArm, Settings, load_settings
from common.stream import Producer, create_topics, partition_of, topic_name
from rollout.recommend.app import create_app
from rollout.recommend.arms import Arms
from rollout.recommend.pools import Ranked
from rollout.recommend.service import RecommendService
from rollout.recommend.sessions import Histories
from tests.rollout.tiny_run import ITEMS, LEVELS, tiny_index, write_run

PARTITIONS = 2
DAY_MS = 86_400_000


@dataclass
class World:
    folder: Path
    settings: Settings
    endpoints: Endpoints
    publisher: Publisher
    producer: Producer
    client: TestClient

    @property
    def service(self) -> RecommendService:
        found: RecommendService = self.client.app.state.service  # type: ignore[attr-defined]
        return found

    def publish(self, version: int) -> None:
        self.publisher.publish(version, to_blob(build_policy(self.settings.policy, version)))

    def show(self, user_id: int, items: list[int]) -> None:
        impressions = [Impression(item_id=item, time_ms=DAY_MS + k) for k, item in enumerate(items)]
        session = Session(session_id=uuid.uuid4().hex, user_id=user_id, time_ms=DAY_MS, impressions=impressions)
        topic = topic_name(self.endpoints.prefix, "sessions")
        self.producer.send(topic, session.to_bytes(), partition_of(user_id, PARTITIONS))
        self.producer.flush()

    def ask(self, **changes: Any) -> RecommendResponse:
        body = {"user_id": 1, "count": 5, "time_ms": 2 * DAY_MS} | changes
        reply = self.client.post("/v1/recommend", json=body)
        assert reply.status_code == 200, reply.text
        return RecommendResponse.model_validate_json(reply.content)


def write_log(path: Path) -> None:
    """A log of five users; nothing is known of the first four."""
    items, users = [Item(item_id=i) for i in range(ITEMS)], [User(user_id=u) for u in range(5)]
    one = Session(session_id="first", user_id=4, time_ms=1, impressions=[Impression(item_id=0, time_ms=1)])
    LogWriter(path, "tiny", int(Label.CLICK), []).write(items, users, [one])


def await_that(what: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def world(
    tmp_path: Path, kafka: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[World]:
    """A test's own settings are its parameter."""
    monkeypatch.setenv("ONEREC_REDIS__URL", redis_url)
    run, prefix = uuid.uuid4().hex, f"recommend{uuid.uuid4().hex[:8]}"
    create_topics(kafka, prefix, PARTITIONS, 10.0)
    told = {"run": run, "kafka": kafka, "prefix": prefix, "reward": "http://127.0.0.1:1"}
    own = getattr(request, "param", ())
    write_run(tmp_path, told, [f"stream.partitions={PARTITIONS}", "recommend.beam=64", "recommend.budget_ms=5000", *own])
    write_log(tmp_path / "log")
    (tmp_path / "old.safetensors").write_bytes(to_blob(build_policy(load_settings(tmp_path / "settings.json").policy, 9)))
    settings, endpoints = load_settings(tmp_path / "settings.json"), Endpoints.read(tmp_path)
    with (
        closing(Publisher(redis_url, run, keep_s=60, timeout_s=5.0)) as publisher,
        closing(Producer(kafka, 10.0)) as producer,
        TestClient(create_app(tmp_path, endpoints, settings), raise_server_exceptions=False) as client,
    ):
        yield World(tmp_path, settings, endpoints, publisher, producer, client)


@pytest.fixture
def ready(world: World) -> World:
    world.publish(0)
    await_that(lambda: world.client.get("/readyz").status_code == 200)
    return world


def test_it_is_not_ready_before_there_are_parameters(world: World) -> None:
    assert world.client.get("/livez").status_code == 200
    for reply in (world.client.get("/readyz"), world.client.post("/v1/recommend", json={"user_id": 1})):
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "1"
        assert "no parameters yet" in reply.json()["detail"]


def test_a_list_is_of_items_that_the_user_has_not_seen_and_says_where_it_came_from(ready: World) -> None:
    ready.show(1, [3, 4, 5])
    with closing(Histories(ready.service.sessions.path, ready.settings)) as histories:
        await_that(lambda: len(histories.context(1, 2 * DAY_MS, 0).events) == 3)
    found = ready.ask(count=ITEMS - 4, exclude=[6])
    assert {one.item_id for one in found.items} == set(range(ITEMS)) - {3, 4, 5, 6}
    assert (found.source, found.degraded, found.parameter_version, found.index_version) == ("generated", False, 0, 1)
    assert all(len(one.generated) == LEVELS for one in found.items)
    scores = [sum(one.generated) for one in found.items]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("world", [["recommend.precision=bf16"]], indirect=True)
def test_with_bf16_parameters_lists_carry_no_log_probabilities(world: World) -> None:
    world.publish(0)
    await_that(lambda: world.client.get("/readyz").status_code == 200)
    found = world.ask(user_id=1, count=4)
    assert (len(found.items), found.source, found.parameter_version) == (4, "generated", 0)
    assert [one.generated for one in found.items] == [[]] * 4


def test_the_next_list_of_a_user_repeats_nothing(ready: World) -> None:
    first, second = ready.ask(count=20), ready.ask(count=20)
    assert not {one.item_id for one in first.items} & {one.item_id for one in second.items}


def test_newer_parameters_and_items_are_taken_up_without_a_restart(ready: World) -> None:
    ready.publish(5)
    await_that(lambda: ready.ask().parameter_version == 5)
    tiny_index(2, items=50).save(ready.folder / "index" / "000002")
    await_that(lambda: ready.ask().index_version == 2)


def test_items_are_sorted_by_popularity_before_anybody_asks_for_the_popular_ones(ready: World) -> None:
    """A sort of a large index would hold up every user, and just when there is load."""
    assert "by_popularity" in vars(ready.service.recommender.index)
    tiny_index(2, items=50).save(ready.folder / "index" / "000002")
    await_that(lambda: ready.ask().index_version == 2)
    assert "by_popularity" in vars(ready.service.recommender.index)


def test_under_load_what_was_left_over_is_served_and_then_the_popular_items(ready: World) -> None:
    first = ready.ask(count=4)
    ready.service.shedder.budget_s = 0.0
    ready.service._waiting = 1
    cached = ready.ask(count=4)
    assert (cached.source, cached.degraded, cached.parameter_version) == ("cached", True, 0)
    assert not {one.item_id for one in first.items} & {one.item_id for one in cached.items}
    popular = ready.ask(user_id=2, count=4)
    assert (popular.source, popular.degraded, popular.parameter_version) == ("popular", True, None)
    assert [one.generated for one in popular.items] == [[]] * 4
    ready.service._waiting = 0


def test_items_that_were_removed_since_are_not_served_of_what_was_left_over(ready: World) -> None:
    ready.ask(count=1)
    tiny_index(2, items=10).save(ready.folder / "index" / "000002")
    await_that(lambda: ready.ask(user_id=2).index_version == 2)
    ready.service.shedder.budget_s = 0.0
    ready.service._waiting = 1
    cached = ready.ask(count=5)
    ready.service._waiting = 0
    assert cached.source == "cached"
    assert {one.item_id for one in cached.items} < set(range(10))


def test_a_batch_that_fails_fails_its_requests_and_no_others(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("lost")

    with monkeypatch.context() as patched:
        patched.setattr(ready.service.recommender, "recommend", fail)
        reply = ready.client.post("/v1/recommend", json={"user_id": 1})
        assert (reply.status_code, reply.json()["error"]) == (500, "internal")
        assert "lost" not in reply.text
    assert len(ready.ask().items) == 5


def test_without_the_stream_it_is_no_longer_ready_and_says_so(ready: World) -> None:
    failed = Event()
    ready.service._on_failure = failed.set
    ready.service.sessions.failure = OSError("the broker is gone")
    assert failed.wait(10.0)
    for reply in (ready.client.get("/readyz"), ready.client.post("/v1/recommend", json={"user_id": 1})):
        assert reply.status_code == 503
        assert "histories are no longer followed" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"user_id": -1}, "user_id"), ({"count": 0}, "count"), ({"count": 101}, "count"), ({"surprise": 1}, "surprise")],
)
def test_bad_requests_name_the_field(ready: World, changes: dict[str, int], field: str) -> None:
    reply = ready.client.post("/v1/recommend", json={"user_id": 1} | changes)
    assert (reply.status_code, reply.json()["error"]) == (422, "invalid")
    assert field in reply.json()["detail"][0]["loc"]


def test_requests_have_defaults() -> None:
    assert RecommendRequest(user_id=1).count == 10


ARMS = "recommend.arms=[{name='new'},{name='old',beam=16,weights='old.safetensors'}]"


@pytest.mark.parametrize("world", [[ARMS]], indirect=True)
def test_users_of_an_arm_are_served_by_its_own_policy_and_told_so(world: World) -> None:
    world.publish(3)
    await_that(lambda: world.client.get("/readyz").status_code == 200)
    split = Arms(world.settings.recommend.arms)
    users = {split.of(user).name: user for user in range(20)}
    new, old = world.ask(user_id=users["new"]), world.ask(user_id=users["old"])
    assert (new.arm, new.parameter_version, old.arm, old.parameter_version) == ("new", 3, "old", None)
    assert all(one.generated for one in new.items)
    assert not any(one.generated for one in old.items)
    world.publish(4)
    await_that(lambda: world.ask(user_id=users["new"]).parameter_version == 4)
    assert 'onerec_recommend_lists_total{arm="old",source="generated"}' in world.client.get("/metrics").text


@pytest.mark.parametrize("weights", ["missing.safetensors", "settings.json"])
def test_weights_that_do_not_fit_are_named(ready: World, weights: str) -> None:
    arms = [RecommendArm(name="old", weights=weights)]
    changed = ready.settings.recommend.model_copy(update={"arms": tuple(arms)})
    with pytest.raises(ValueError, match=f"weights must be a policy file.*{weights}"):
        create_app(ready.folder, ready.endpoints, ready.settings.model_copy(update={"recommend": changed}))


def test_a_list_is_filled_up_with_nothing_that_the_user_has_seen(ready: World) -> None:
    ready.show(2, [3, 4, 5])
    with closing(Histories(ready.service.sessions.path, ready.settings)) as histories:
        await_that(lambda: len(histories.context(2, 2 * DAY_MS, 0).events) == 3)
    found = ready.ask(user_id=2, count=ITEMS)
    assert sorted(one.item_id for one in found.items) == sorted(set(range(ITEMS)) - {3, 4, 5})


@pytest.mark.parametrize("world", [["recommend.select=10"]], indirect=True)
def test_items_that_were_just_served_are_not_scored_again(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[set[int]] = []

    async def ordered(made: Ranked, *_: object) -> Ranked:
        scored.append(set(made.item_ids[:10].tolist()))
        return made

    monkeypatch.setattr(ready.service._selection, "ordered", ordered)
    first = {one.item_id for one in ready.ask(count=10).items}
    second = {one.item_id for one in ready.ask(count=10).items}
    assert scored == [first, second]
    assert not first & second


def test_whatever_ends_the_following_of_sessions_ends_readiness(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(ready.service.sessions, "_take", full)
    await_that(lambda: ready.client.get("/readyz").status_code == 503)
    assert isinstance(ready.service.sessions.failure, sqlite3.OperationalError)
