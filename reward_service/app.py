"""The reward service's HTTP surface: ``POST /v1/score``, ``/v1/model``, ``/livez``, ``/readyz``, ``/metrics``.

Errors are typed JSON (`common.http_service`); 410 ``gone`` names an index or model version that is not held. A failed
request never carries a made-up score.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from common.http_service import add_basics, error
from common.message_route import Work, message_route
from common.messages import ScoreRequest
from common.metrics import REWARD_IN_FLIGHT, REWARD_ITEMS_SCORED, REWARD_REQUESTS, REWARD_SECONDS
from reward_service.labels import OBJECTIVES
from reward_service.rewards import Rewards
from reward_service.scorer import GoneError, Scorer, UnknownItemError


class Gate:
    """Answers requests in a thread pool and refuses, rather than queues, what exceeds ``limit`` requests in flight."""

    def __init__(self, threads: int, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="score")

    async def run(self, work: Work) -> Response:
        """Its answer, or 503 when overloaded."""
        if self.in_flight >= self.limit:
            return error(503, "overloaded", f"{self.limit} requests are in flight", retry=True)
        self.in_flight += 1
        REWARD_IN_FLIGHT.set(self.in_flight)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self.in_flight -= 1
            REWARD_IN_FLIGHT.set(self.in_flight)

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
    add_basics(app, "/v1/score", REWARD_REQUESTS, REWARD_SECONDS)
    _add_errors(app)
    _add_probes(app, scorer)

    async def run(work: Work) -> Response:
        return await gate.run(work) if app.state.ready else _not_ready()

    def score(body: ScoreRequest) -> Response:
        scored = scorer.score(body).to_bytes()
        REWARD_ITEMS_SCORED.inc(len(body.item_ids))
        return Response(scored, media_type="application/json")

    app.router.add_api_route("/v1/score", score, methods=["POST"], route_class_override=message_route(run))
    return app


def _add_probes(app: FastAPI, scorer: Scorer) -> None:
    @app.get("/readyz")
    async def readyz() -> Response:
        return JSONResponse({"status": "ready"}) if app.state.ready else _not_ready()

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


def _not_ready() -> Response:
    return error(503, "not_ready", "the model has not scored its warm-up request yet", retry=True)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(UnknownItemError)
    async def unknown(_: Request, found: UnknownItemError) -> Response:
        told = {"loc": ["body", "item_ids", found.position], "msg": str(found), "type": "unknown_item"}
        return error(422, "invalid", [told])

    @app.exception_handler(GoneError)
    async def gone(_: Request, found: GoneError) -> Response:
        return error(410, "gone", str(found))
