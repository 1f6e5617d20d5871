"""A route that validates a message from the body's bytes, in a thread."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from fastapi import FastAPI, Response
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, Counter, Histogram

from common.http_service import add_basics, error
from common.message_route import Work, message_route
from common.messages import RecommendRequest

JSON = {"content-type": "application/json"}


@pytest.fixture
def client() -> TestClient:
    app, registry = FastAPI(), CollectorRegistry()
    add_basics(app, "/ask", Counter("n", "", ["code"], registry=registry), Histogram("s", "", registry=registry))

    async def run(work: Work) -> Response:
        if app.state.closed:
            return error(503, "closed", "")
        return await asyncio.to_thread(work)

    def ask(body: RecommendRequest) -> Response:
        headers = {"thread": threading.current_thread().name}
        return Response(body.to_bytes(), headers=headers, media_type="application/json")

    app.state.closed = False
    app.router.add_api_route("/ask", ask, methods=["POST"], route_class_override=message_route(run))
    return TestClient(app)


def test_the_endpoint_gets_the_message_and_the_document_tells_of_it(client: TestClient) -> None:
    asked = RecommendRequest(user_id=4, count=3)
    reply = client.post("/ask", content=asked.to_bytes(), headers={"content-type": "Application/JSON; charset=utf-8"})
    assert RecommendRequest.model_validate_json(reply.content) == asked
    assert reply.headers["thread"].startswith("asyncio_")
    app: Any = client.app
    assert "RecommendRequest" in app.openapi()["components"]["schemas"]


def test_what_runs_messages_may_answer_without_a_look_at_them(client: TestClient) -> None:
    app: Any = client.app
    app.state.closed = True
    assert client.post("/ask", content=b"{nope", headers=JSON).status_code == 503


@pytest.mark.parametrize(
    ("body", "headers", "place"),
    [
        (b'{"user_id": -1}', JSON, ["body", "user_id"]),
        (b'{"user_id": 1, "schema_version": 2}', JSON, ["body", "schema_version"]),
        (b"{nope", JSON, ["body"]),
        (b"\xff\xfe", JSON, ["body"]),
        (b"[" * 100_000, JSON, ["body"]),
        (b"", JSON, ["body"]),
        (b'{"user_id": 1}', {"content-type": "text/plain"}, ["header", "content-type"]),
        (b'{"user_id": 1}', {}, ["header", "content-type"]),
    ],
)
def test_what_is_no_message_is_invalid_and_named(
    body: bytes, headers: dict[str, str], place: list[str], client: TestClient
) -> None:
    reply = client.post("/ask", content=body, headers=headers)
    assert (reply.status_code, reply.json()["error"]) == (422, "invalid")
    assert reply.json()["detail"][0]["loc"] == place
    assert len(reply.content) < 1000
