"""A hundred thousand requests, valid and not, made from both services' OpenAPI documents: no crash, no 5xx but 503."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings, strategies
from schemathesis import Case, GenerationMode

from reward_service.app import create_app
from tests.faults.conftest import Note
from tests.reward_service.conftest import run_folder
from tests.reward_service.tiny_world import ITEMS
from tests.rollout.recommend.test_app import World, world

__all__ = ["run_folder", "world"]  # fixtures
pytestmark = [pytest.mark.faults, pytest.mark.timeout(5400)]
REQUESTS = int(os.environ.get("ONEREC_FAULT_REQUESTS", "100000"))


@pytest.fixture
def reward(run_folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(run_folder / "reward", run_folder / "index"), raise_server_exceptions=False) as client:
        yield client


def test_the_reward_service(reward: TestClient, note: Note) -> None:
    app = reward.app
    assert isinstance(app, FastAPI)
    fields = app.openapi()["components"]["schemas"]["ScoreRequest"]["properties"]  # so that some requests are answered
    fields["index_version"]["maximum"] = 1
    fields["item_ids"]["items"] = {"type": "integer", "minimum": 100, "maximum": 99 + ITEMS}
    found = statuses(reward, "/v1/score", REQUESTS // 2)
    assert found[200] > REQUESTS // 20
    note(statuses=found)


def test_the_recommend_endpoint(world: World, note: Note) -> None:
    world.publish(0)
    client = TestClient(world.client.app, raise_server_exceptions=False)
    client.portal = world.client.portal  # of the application that runs
    found = statuses(client, "/v1/recommend", REQUESTS // 2)
    assert found[200] > REQUESTS // 20
    note(statuses=found)


def statuses(client: TestClient, path: str, count: int) -> Counter[int]:
    """What so many generated requests were answered with, half of them against the document."""
    app = client.app
    assert isinstance(app, FastAPI)
    operation = schemathesis.openapi.from_dict(app.openapi())[path]["POST"]
    found = Counter[int]()
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

        @settings(max_examples=count // 2, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(case=_strategy(operation, mode))
        def ask(case: Case[Any]) -> None:
            reply = client.request("POST", path, headers=_headers(case), **_body(case))
            found[reply.status_code] += 1
            assert reply.status_code < 500 or reply.status_code == 503, (case.body, reply.text)
            assert reply.status_code == 200 or reply.json()["error"], (case.body, reply.text)

        ask()
    assert found[422] > count // 10
    return found


def _strategy(operation: Any, mode: GenerationMode) -> strategies.SearchStrategy[Case[Any]]:
    made: strategies.SearchStrategy[Case[Any]] = operation.as_strategy(generation_mode=mode)
    return made


def _headers(case: Case[Any]) -> dict[str, str]:
    return {name: value for name, value in (case.headers or {}).items() if isinstance(value, str) and value.isascii()}


def _body(case: Case[Any]) -> dict[str, Any]:
    if isinstance(case.body, bytes):
        return {"content": case.body}
    return {} if isinstance(case.body, schemathesis.core.NotSet) else {"json": case.body}
