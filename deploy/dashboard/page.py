"""A page of a run: ``/`` with its live part ``/live``, ``/sample?user=…``, ``/state`` (JSON), ``/livez``, ``/metrics``.

The page asks for its live part every few seconds while somebody looks at it; the run is looked at then, at most once in
`FRESH_S`, and not at all while nobody does. It needs no script but its own and nothing from the network.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.access import access
from common.http_guard import Guard
from common.http_service import serve
from common.metrics import render
from common.session_log import SessionLog
from deploy.dashboard import charts, picture
from deploy.dashboard.guard import HEADERS, BrowserGuard
from deploy.dashboard.screen import checkpoint, rate
from deploy.dashboard.state import LoopState
from deploy.dashboard.watch import Watch
from deploy.local.run_folder import RunFolder
from deploy.local.shown import number, share, span

if TYPE_CHECKING:
    from deploy.dashboard.samples import Sampler

PAGES = Path(__file__).with_name("pages")
FRESH_S = 1.5
LARGEST = 1024
"""Bytes of a request's body; the page sends none."""
MOST_USER = 2**63 - 1
NICE = 10
"""The loop comes first."""


def serve_page(run: RunFolder, address: tuple[str, int]) -> None:
    """Serve at (host, port) until SIGTERM or SIGINT.

    Raises:
        ValueError: the host is no address, or others than this machine could look without a token.
        OSError: the port is taken.
    """
    os.nice(NICE)
    serve(create_app(run), run.path, "dashboard", address)


class Current:
    """The newest state, shared by all who look at the page."""

    def __init__(self, run: RunFolder) -> None:
        self._watch, self._lock = Watch(run), threading.Lock()
        self._state: LoopState | None = None
        self._looked_s = 0.0

    def state(self) -> LoopState:
        """A state that is no older than `FRESH_S`."""
        with self._lock:
            if self._state is None or time.monotonic() - self._looked_s > FRESH_S:
                self._state = self._watch.look()
                self._looked_s = time.monotonic()
            return self._state

    def close(self) -> None:
        """Close its connections."""
        with self._lock:
            self._watch.close()


def create_app(run: RunFolder) -> FastAPI:
    """The page of a run."""
    current, templates = Current(run), _templates()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        current.close()

    app = FastAPI(title="OneRec dashboard", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, largest=LARGEST)
    app.add_middleware(BrowserGuard, token=access().service_token.get_secret_value())
    app.add_middleware(WithHeaders)
    app.mount("/static", StaticFiles(directory=PAGES / "static"), name="static")

    @cache
    def sampler() -> Sampler:
        # Imported when first asked for: a page that only watches then takes a third of the memory.
        from deploy.dashboard.samples import Sampler

        return Sampler(run)

    def page(name: str, status: int = 200, **values: Any) -> HTMLResponse:
        return HTMLResponse(templates.get_template(name).render(**values), status)

    @app.get("/")
    def index() -> Response:
        return page("page.html", state=current.state(), example=example_user(run))

    @app.get("/live")
    def live() -> Response:
        return page("live.html", state=current.state())

    @app.get("/state")
    def state() -> LoopState:
        return current.state()

    @app.get("/sample")
    def sample(user: str) -> Response:
        try:
            return page("sample.html", sample=sampler().sample(parse_user(user)))
        except (ValueError, OSError, sqlite3.Error) as error:
            return page("mistake.html", 422, reason=str(error))

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(render(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    return app


def parse_user(text: str) -> int:
    """A user id as a person typed it.

    Raises:
        ValueError: it is none.
    """
    text = text.strip()
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(MOST_USER)) or int(text) > MOST_USER:
        raise ValueError(f"user must be a whole number from 0 to {MOST_USER}, got {text[:40]!r}")
    return int(text)


def example_user(run: RunFolder) -> int | None:
    """Some user of the run; None where it has no log yet."""
    users = SessionLog.open(run.log).users() if run.log.exists() else iter(())
    return next((user.user_id for user in users), None)


class WithHeaders:
    """ASGI middleware: gives every answer `HEADERS`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        await self.app(scope, receive, told)


def _templates() -> Environment:
    """Escapes by itself: titles and reasons are text that strangers wrote."""
    made = Environment(
        loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.globals |= {
        "charts": charts.CHARTS,
        "chart": charts.draw,
        "picture": picture.draw,
        "layouts": (picture.WIDE, picture.TALL),
        "checkpoint": checkpoint,
        "clock": lambda ms: time.strftime("%H:%M:%S", time.localtime(ms / 1000)),
    }
    made.filters |= {"number": number, "share": share, "span": span, "rate": rate}
    return made
