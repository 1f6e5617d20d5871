"""The reward service's HTTP surface: ``POST /v1/score``, ``/v1/model``, ``/livez``, ``/readyz``, ``/metrics``.

Errors are typed JSON, ``{"error": KIND, "detail": …}``: 422 ``invalid`` names the field, 410 ``gone`` an index or model
version that is not held, 503 ``not_ready`` or ``overloaded`` (with Retry-After), 500 ``internal``. A failed request never
carries a made-up score.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from common.messages import ScoreRequest
from common.metrics import REWARD_ITEMS_SCORED, REWARD_REQUESTS, REWARD_SECONDS, render
from reward_service.labels import OBJECTIVES
from reward_service.rewards import Rewards
from reward_service.scorer import GoneError, Scorer, UnknownItemError

LOG = logging.getLogger("reward_service")


class Gate:
    """Runs scoring in a thread pool and refuses, rather than queues, what exceeds ``limit`` requests in flight."""

    def __init__(self, threads: int, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="score")

    async def run(self, scorer: Scorer, request: ScoreRequest) -> bytes | None:
        """The response's JSON, or None when overloaded."""
        if self.in_flight >= self.limit:
            return None
        self.in_flight += 1
        try:
            score = lambda: scorer.score(request).to_bytes()  # noqa: E731
            return await asyncio.get_running_loop().run_in_executor(self._pool, score)
        finally:
            self.in_flight -= 1

    def close(self) -> None:
        """Wait for what runs."""
        self._pool.shutdown()


def create_app(
    reward_folder: Path, index_folder: Path, rewards: Rewards | None = None, /, *, threads: int = 2, max_in_flight: int = 64
) -> FastAPI:
    """The service for the newest committed model and item index below two folders (``RUN/reward``, ``RUN/index``).

    Raises:
        ValueError: nothing committed there, or a damaged file.
    """
    scorer = Scorer(reward_folder, index_folder, rewards)
    gate = Gate(threads, max_in_flight)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.get_running_loop().run_in_executor(None, scorer.warm_up)
        app.state.ready = True
        yield
        app.state.ready = False
        gate.close()
        scorer.close()

    app = FastAPI(title="OneRec reward service", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.ready = False
    _add_metrics(app)
    _add_errors(app)
    _add_probes(app, scorer)

    @app.post("/v1/score")
    async def score(body: ScoreRequest) -> Response:
        if not app.state.ready:
            return _error(503, "not_ready", "the model has not scored its warm-up request yet", retry=True)
        scored = await gate.run(scorer, body)
        if scored is None:
            return _error(503, "overloaded", f"{gate.limit} requests are in flight", retry=True)
        REWARD_ITEMS_SCORED.inc(len(body.item_ids))
        return Response(scored, media_type="application/json")

    return app


def _add_probes(app: FastAPI, scorer: Scorer) -> None:
    @app.get("/livez")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> Response:
        if not app.state.ready:
            return _error(503, "not_ready", "the model has not scored its warm-up request yet", retry=True)
        return JSONResponse({"status": "ready"})

    @app.get("/v1/model")
    async def model() -> dict[str, Any]:
        return {
            "reward_version": scorer.current.card.version,
            "reward_versions": scorer.versions,
            "index_versions": scorer.index_versions,
            "tokenizer_version": scorer.current.card.tokenizer_version,
            "objectives": list(OBJECTIVES),
            "report": scorer.current.card.report,
        }


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        found = [{"loc": list(e["loc"]), "msg": e["msg"], "type": e["type"]} for e in error.errors()]
        return _error(422, "invalid", found)  # without the input, which may be megabytes

    @app.exception_handler(UnknownItemError)
    async def unknown(_: Request, error: UnknownItemError) -> Response:
        found = {"loc": ["body", "item_ids", error.position], "msg": str(error), "type": "unknown_item"}
        return _error(422, "invalid", [found])

    @app.exception_handler(GoneError)
    async def gone(_: Request, error: GoneError) -> Response:
        return _error(410, "gone", str(error))


def _add_metrics(app: FastAPI) -> None:
    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(render(), media_type=CONTENT_TYPE_LATEST)

    @app.middleware("http")
    async def count(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.url.path != "/v1/score":
            return await proceed(request)
        began = time.perf_counter()
        try:
            response = await proceed(request)
        except Exception:
            LOG.exception("scoring failed")
            response = _error(500, "internal", "scoring failed; the service's log has the cause")
        REWARD_REQUESTS.labels(code=str(response.status_code)).inc()
        REWARD_SECONDS.observe(time.perf_counter() - began)
        return response


def _error(status: int, kind: str, detail: Any, retry: bool = False) -> JSONResponse:
    headers = {"Retry-After": "1"} if retry else None
    return JSONResponse({"error": kind, "detail": detail}, status, headers)
