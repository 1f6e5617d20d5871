"""The HTTP service: good scores, every kind of bad input, readiness, overload, and following the index."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import torch
from fastapi import FastAPI

from common.item_index import prune
from common.messages import Events, ScoreRequest, ScoreResponse, UserContext
from common.settings import IndustrialSettings, RewardSettings
from reward_service.app import create_app
from reward_service.artefact import load_artefact, save_artefact
from reward_service.labels import OBJECTIVES
from reward_service.rewards import Rewards
from reward_service.scorer import Scorer
from tests.reward_service.tiny_world import DAY0_MS, make_index

T = TypeVar("T")


def request_of(item_ids: list[int], **changes: Any) -> dict[str, Any]:
    """A body of ``/v1/score``."""
    past = Events(item_id=[100, 102], time_ms=[1, DAY0_MS], play_ms=[9, 9], duration_ms=[9, 9], labels=[1, 3])
    context = UserContext(user_id=4, profile={"sex": 0}, time_ms=DAY0_MS + 1000, tab=1, events=past)
    body: dict[str, Any] = json.loads(ScoreRequest(context=context, item_ids=[1], index_version=1).to_bytes())
    return body | {"item_ids": item_ids} | changes


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def talk(run_folder: Path, conversation: Callable[[httpx.AsyncClient], Awaitable[T]], **options: int) -> T:
    """Hold a conversation with a freshly started service."""

    async def run() -> T:
        async with client_of(create_app(run_folder / "reward", run_folder / "index", **options)) as client:
            return await conversation(client)

    return asyncio.run(run())


def post(run_folder: Path, body: Any) -> httpx.Response:
    return talk(run_folder, lambda client: client.post("/v1/score", json=body))


def test_scores_come_in_the_order_of_the_items_with_the_model_version(run_folder: Path) -> None:
    items = [139, 100, 120, 101]
    reply = post(run_folder, request_of(items))
    assert reply.status_code == 200
    scores = ScoreResponse.model_validate_json(reply.content)
    assert scores.reward_version.startswith("000001-")
    assert set(scores.towers) == set(OBJECTIVES)
    alone = [ScoreResponse.model_validate_json(post(run_folder, request_of([i])).content).p_score[0] for i in items]
    assert scores.p_score == pytest.approx(alone, abs=1e-6)
    assert all(0 < p < 1 for column in (scores.p_score, *scores.towers.values()) for p in column)


def test_a_request_may_bring_terms_of_its_own(run_folder: Path) -> None:
    scores = ScoreResponse.model_validate_json(post(run_folder, request_of([139, 100], terms={"ltr": 1, "wtr": 3})).content)
    expected = [(like + 3 * follow) / 4 for like, follow in zip(scores.towers["ltr"], scores.towers["wtr"], strict=True)]
    assert scores.rewards == pytest.approx(expected)
    for terms, told in (
        ({"ltr": 0}, "weight above 0"),
        ({"fame": 1}, "p_score"),
        ({"ltr": -1}, "greater than or equal to 0"),
    ):
        reply = post(run_folder, request_of([139], terms=terms))
        assert reply.status_code == 422
        assert "terms" in reply.text
        assert told in reply.text


def test_a_request_may_ask_for_rewards_alone(run_folder: Path) -> None:
    whole, short = (post(run_folder, request_of([139, 100], rewards_only=only)) for only in (False, True))
    scores = ScoreResponse.model_validate_json(short.content)
    assert scores.rewards == ScoreResponse.model_validate_json(whole.content).rewards
    assert (scores.p_score, scores.towers) == ([], {})


def test_2048_candidates_are_scored_and_2049_name_the_field(run_folder: Path) -> None:
    full = [100 + k % 40 for k in range(2048)]
    assert len(post(run_folder, request_of(full)).json()["p_score"]) == 2048
    reply = post(run_folder, request_of([*full, 100]))
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"] == ["body", "item_ids"]
    assert len(reply.content) < 1000


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"item_ids": []}, "item_ids"),
        ({"item_ids": ["x"]}, "item_ids"),
        ({"item_ids": [-1]}, "item_ids"),
        ({"index_version": 0}, "index_version"),
        ({"surprise": 1}, "surprise"),
        ({"context": {"user_id": 1}}, "time_ms"),
        ({"context": {"user_id": 1, "time_ms": 1, "events": {"item_id": [1]}}}, "events"),
    ],
)
def test_bad_bodies_name_the_field(run_folder: Path, changes: dict[str, Any], field: str) -> None:
    reply = post(run_folder, request_of([100]) | changes)
    assert reply.status_code == 422
    assert reply.json()["error"] == "invalid"
    assert field in reply.json()["detail"][0]["loc"]


def test_a_newer_schema_and_broken_json_are_refused(run_folder: Path) -> None:
    newer = post(run_folder, request_of([100], schema_version=99))
    assert newer.status_code == 422
    assert "upgrade consumers first" in newer.json()["detail"][0]["msg"]
    headers = {"content-type": "application/json"}
    broken = talk(run_folder, lambda client: client.post("/v1/score", content=b"{nope", headers=headers))
    assert broken.status_code == 422


def test_an_unknown_item_names_its_place_and_id(run_folder: Path) -> None:
    reply = post(run_folder, request_of([100, 555]))
    assert reply.status_code == 422
    detail = reply.json()["detail"][0]
    assert detail["loc"] == ["body", "item_ids", 1]
    assert "555" in detail["msg"]


def test_an_index_version_that_is_not_held_is_gone(run_folder: Path) -> None:
    reply = post(run_folder, request_of([100], index_version=7))
    assert reply.status_code == 410
    assert reply.json()["error"] == "gone"
    assert "7" in reply.json()["detail"]


def test_a_new_index_is_taken_up_and_one_that_was_removed_is_gone(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder / "reward", tmp_path / "reward")
    make_index(1).save(tmp_path / "index" / "000001")

    async def conversation(client: httpx.AsyncClient) -> list[int]:
        codes = [(await client.post("/v1/score", json=request_of([100], index_version=2))).status_code]
        for version in (2, 3):
            make_index(version).save(tmp_path / "index" / f"{version:06d}")
            prune(tmp_path / "index", 2)
            for asked in (version, 1):
                body = request_of([100], index_version=asked)
                codes.append((await client.post("/v1/score", json=body)).status_code)
        return codes

    assert talk(tmp_path, conversation) == [410, 200, 200, 200, 410]


def test_a_newer_index_is_loaded_while_the_old_one_is_asked_for_and_a_damaged_one_never(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.item_index.follower.LOOK_EVERY_S", 0.0)
    shutil.copytree(run_folder / "reward", tmp_path / "reward")
    for version in (1, 2, 3):
        make_index(version).save(tmp_path / f"{version}")
    (tmp_path / "3" / "sids.npy").write_bytes(b"torn")

    async def until(client: httpx.AsyncClient, versions: list[int]) -> None:
        deadline = time.monotonic() + 20
        while (await client.get("/v1/model")).json()["index_versions"] != versions:
            assert (await client.post("/v1/score", json=request_of([100]))).status_code == 200
            assert time.monotonic() < deadline

    async def conversation(client: httpx.AsyncClient) -> list[int]:
        (tmp_path / "2").rename(tmp_path / "index" / "000002")
        await until(client, [1, 2])
        (tmp_path / "3").rename(tmp_path / "index" / "000003")
        asked = [request_of([100], index_version=version) for version in (3, 2, 1)]
        return [(await client.post("/v1/score", json=body)).status_code for body in asked]

    (tmp_path / "index").mkdir()
    (tmp_path / "1").rename(tmp_path / "index" / "000001")
    assert talk(tmp_path, conversation) == [410, 200, 200]


def test_an_index_of_another_tokenizer_is_refused(run_folder: Path, tmp_path: Path) -> None:
    make_index(1, tokenizer="t2").save(tmp_path / "index" / "000001")
    with pytest.raises(ValueError, match="was trained with 't1'"):
        create_app(run_folder / "reward", tmp_path / "index")


def test_not_ready_before_the_warm_up_and_ready_after(run_folder: Path) -> None:
    async def run() -> list[int]:
        app = create_app(run_folder / "reward", run_folder / "index")
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            codes = [(await client.get(path)).status_code for path in ("/livez", "/readyz")]
            codes.append((await client.post("/v1/score", json=request_of([100]))).status_code)
            async with app.router.lifespan_context(app):
                codes.append((await client.get("/readyz")).status_code)
        return codes

    assert asyncio.run(run()) == [200, 503, 503, 200]


def test_overload_is_refused_with_a_pause_and_passes(run_folder: Path) -> None:
    async def conversation(client: httpx.AsyncClient) -> tuple[list[httpx.Response], httpx.Response]:
        body = request_of([100 + k % 40 for k in range(2000)])
        crowd = await asyncio.gather(*(client.post("/v1/score", json=body) for _ in range(8)))
        return crowd, await client.post("/v1/score", json=body)

    crowd, later = talk(run_folder, conversation, threads=1, max_in_flight=1)
    codes = [reply.status_code for reply in crowd]
    assert set(codes) == {200, 503}
    refused = crowd[codes.index(503)]
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"] == "overloaded"
    assert later.status_code == 200


@pytest.mark.parametrize("layer", ["head.out", "out.ctr"])
def test_a_model_that_gives_no_number_is_an_error_and_never_a_score(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    scorer = Scorer(run_folder / "reward", run_folder / "index")
    monkeypatch.setattr("reward_service.app.Scorer", lambda *_: scorer)

    async def conversation(client: httpx.AsyncClient) -> httpx.Response:
        with torch.no_grad():
            scorer.current.model.get_parameter(f"{layer}.bias").fill_(torch.nan)
        return await client.post("/v1/score", json=request_of([100]))

    reply = talk(run_folder, conversation)
    assert reply.status_code == 500
    assert reply.json()["error"] == "internal"


def test_model_card_and_metrics(run_folder: Path) -> None:
    async def conversation(client: httpx.AsyncClient) -> tuple[dict[str, Any], str, str]:
        before = (await client.get("/metrics")).text
        await client.post("/v1/score", json=request_of([100, 101]))
        await client.post("/v1/score", json=request_of([]))
        return (await client.get("/v1/model")).json(), before, (await client.get("/metrics")).text

    card, before, after = talk(run_folder, conversation)
    assert card["index_versions"] == [1]
    assert card["tokenizer_version"] == "t1"
    assert card["objectives"] == list(OBJECTIVES)
    assert card["reward_version"].startswith("000001-")
    assert count(after, 'requests_total{code="200"}') - count(before, 'requests_total{code="200"}') == 1
    assert count(after, 'requests_total{code="422"}') - count(before, 'requests_total{code="422"}') == 1
    assert count(after, "items_scored_total") - count(before, "items_scored_total") == 2
    assert (count(after, "model_version_number"), count(after, "index_version_number")) == (1, 1)
    assert count(after, "in_flight_number") == 0


def count(metrics: str, name: str) -> float:
    """The value of one of the service's samples; 0 where it has not been counted yet."""
    values = [line.split(" ")[1] for line in metrics.splitlines() if line.startswith(f"onerec_reward_{name} ")]
    return float(values[0]) if values else 0.0


def another(folder: Path, bias: float) -> str:
    """Commit the newest model again with another P-Score bias; its version."""
    artefact = load_artefact(folder)
    with torch.no_grad():
        artefact.model.head.out.bias.fill_(bias)
    return save_artefact(folder, artefact.learner(1e-3), make_index(), artefact.card.report, clicks_recorded=True).version


@pytest.fixture
def own_run(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder to write to, and a service that looks for newer models at every request."""
    monkeypatch.setattr("reward_service.follower.LOOK_EVERY_S", 0.0)
    for name in ("reward", "index"):
        shutil.copytree(run_folder / name, tmp_path / name)
    return tmp_path


async def until_served(client: httpx.AsyncClient, version: str) -> None:
    deadline = time.monotonic() + 20
    while (await client.post("/v1/score", json=request_of([100]))).json()["reward_version"] != version:
        assert time.monotonic() < deadline


def test_a_newer_model_is_taken_up_and_the_one_before_can_be_pinned(own_run: Path) -> None:
    first = load_artefact(own_run / "reward").card.version

    async def conversation(client: httpx.AsyncClient) -> list[httpx.Response]:
        before = await client.post("/v1/score", json=request_of([100]))
        second = another(own_run / "reward", 2.0)
        await until_served(client, second)
        pinned = [await client.post("/v1/score", json=request_of([100], reward_version=v)) for v in (first, second)]
        third = another(own_run / "reward", -2.0)
        await until_served(client, third)
        late = [await client.post("/v1/score", json=request_of([100], reward_version=v)) for v in (first, second, third)]
        return [before, *pinned, *late]

    before, old, new, *late = talk(own_run, conversation)
    assert old.json()["p_score"] == before.json()["p_score"] != new.json()["p_score"]
    assert [reply.status_code for reply in late] == [410, 200, 200]
    assert late[0].json()["error"] == "gone"
    assert first in late[0].json()["detail"]


@pytest.mark.parametrize("fault", ["torn", "nan", "tokenizer", "marker"])
def test_a_model_that_fails_is_never_served(own_run: Path, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = own_run / "reward"
    first = load_artefact(folder).card.version

    async def conversation(client: httpx.AsyncClient) -> set[str]:
        if fault == "tokenizer":
            artefact = load_artefact(folder)
            save_artefact(folder, artefact.learner(1e-3), make_index(tokenizer="another"), {}, clicks_recorded=True)
        else:
            another(folder, float("nan") if fault == "nan" else 1.0)
        if fault == "torn":
            (folder / "000002" / "model.safetensors").write_bytes(b"torn")
        if fault == "marker":
            (folder / "000002" / "COMMITTED").write_text('{"model.json": {}}')
        served, deadline = set[str](), time.monotonic() + 20
        while not any("is refused" in record.getMessage() for record in caplog.records):
            served.add((await client.post("/v1/score", json=request_of([100]))).json()["reward_version"])
            assert time.monotonic() < deadline
        served |= {(await client.post("/v1/score", json=request_of([100]))).json()["reward_version"] for _ in range(5)}
        return served

    assert talk(own_run, conversation) == {first}
    assert len([record for record in caplog.records if "is refused" in record.getMessage()]) == 1


def test_the_warm_up_counts_in_no_share(run_folder: Path) -> None:
    rule = IndustrialSettings(tags=[0, 1, 2, 3], share_limit=0.1)
    rewards = Rewards(RewardSettings(industrial=rule))
    assert rewards.industrial is not None
    scorer = Scorer(run_folder / "reward", run_folder / "index", rewards)
    shares = []
    for work in (scorer.warm_up, lambda: scorer.score(ScoreRequest.model_validate(request_of([100])))):
        work()
        shares.append(rewards.industrial.share)
    scorer.close()
    assert [share is None for share in shares] == [True, False]
