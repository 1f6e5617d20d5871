"""What is refused before a service sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from starlette.types import Message

from common.http_guard import Guard
from common.http_service import add_basics, serve

TOKEN = "open-sesame"


def service(**limits: float) -> FastAPI:
    app = FastAPI()
    app.add_middleware(Guard, **{"token": TOKEN, "largest": 10} | limits)  # type: ignore[arg-type]

    @app.post("/echo")
    async def echo(request: Request) -> str:
        return (await request.body()).decode()

    @app.get("/livez")
    async def livez() -> str:
        return "alive"

    return app


async def post(app: FastAPI, content: bytes | AsyncIterator[bytes], headers: dict[str, str]) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        return await client.post("/echo", content=content, headers=headers)


async def pieces(*parts: bytes, pause_s: float = 0.0) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
        await asyncio.sleep(pause_s)


BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer guess"}, {"authorization": f"Basic {TOKEN}"}])
def test_without_the_token_nothing_but_probes_is_answered(headers: dict[str, str]) -> None:
    app = service()
    refused = asyncio.run(post(app, b"hello", headers))
    assert (refused.status_code, refused.json()["error"]) == (401, "unauthorized")

    async def live() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return (await client.get("/livez")).status_code

    assert asyncio.run(live()) == 200


def test_with_the_token_a_body_passes_whole() -> None:
    assert asyncio.run(post(service(), b"hello", BEARER)).json() == "hello"
    assert asyncio.run(post(service(), pieces(b"he", b"llo"), BEARER)).json() == "hello"


def test_a_body_too_large_is_refused_told_or_not() -> None:
    for content in (b"x" * 11, pieces(b"x" * 6, b"x" * 5)):
        refused = asyncio.run(post(service(), content, BEARER))
        assert (refused.status_code, refused.json()["error"]) == (413, "too_large")
        assert "at most 10 bytes" in refused.json()["detail"]


def test_a_body_that_trickles_in_is_given_up() -> None:
    refused = asyncio.run(post(service(arrives_s=0.05), pieces(b"a", b"b", pause_s=30.0), BEARER))
    assert (refused.status_code, refused.json()["error"]) == (408, "slow")


def test_a_body_whose_sender_went_away_reaches_no_handler_and_counts_as_no_answer() -> None:
    app, registry = FastAPI(title="echo"), CollectorRegistry()
    requests = Counter("requests", "By code.", ["code"], registry=registry)
    add_basics(app, "/echo", requests, Histogram("seconds", "Time.", registry=registry))
    reached: list[bytes] = []

    @app.post("/echo")
    async def echo(request: Request) -> str:
        reached.append(await request.body())
        return "heard"

    messages: list[Message] = [{"type": "http.request", "body": b"he", "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    head = {"type": "http", "method": "POST", "path": "/echo", "headers": [(b"content-length", b"5")], "query_string": b""}
    asyncio.run(app(head, receive, send))
    assert (reached, sent) == ([], [])
    assert b"requests_total{" not in generate_latest(registry)


@pytest.mark.parametrize(("host", "told"), [("0.0.0.0", "needs ONEREC_ACCESS_SERVICE_TOKEN"), ("name", "IP address")])  # noqa: S104
def test_beyond_loopback_a_token_is_needed(host: str, told: str, tmp_path: object) -> None:
    with pytest.raises(ValueError, match=told):
        serve(service(), tmp_path, "echo", (host, 0))  # type: ignore[arg-type]
