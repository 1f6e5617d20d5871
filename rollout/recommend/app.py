"""The recommend endpoint's HTTP surface: ``POST /v1/recommend``, ``/livez``, ``/readyz``, ``/metrics``.

Errors are typed JSON (`common.http_service`). Load is no error: a list that is there already is served, marked degraded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from common.endpoints import Endpoints
from common.http_service import add_basics, error
from common.messages import RecommendRequest
from common.metrics import RECOMMEND_REQUESTS, RECOMMEND_SECONDS
from common.settings import Settings
from rollout.recommend.service import RecommendService

NOT_READY = "no parameters yet, histories not caught up, or no first list made"


def create_app(
    folder: Path, endpoints: Endpoints, settings: Settings, on_failure: Callable[[], None] = lambda: None
) -> FastAPI:
    """The endpoint of a run; ``on_failure`` as in `RecommendService`.

    Raises:
        ValueError: the run folder has no item index that can be loaded, or a damaged history store.
        StreamError: the sessions topic is missing.
    """
    service = RecommendService(folder, endpoints, settings, on_failure)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPI(title="OneRec recommend endpoint", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    add_basics(app, "/v1/recommend", RECOMMEND_REQUESTS, RECOMMEND_SECONDS)

    @app.post("/v1/recommend")
    async def recommend(body: RecommendRequest) -> Response:
        if not service.ready:
            return _not_ready(service)
        try:
            found = await service.answer(body)
        except TimeoutError:
            return error(503, "overloaded", "no list was made in time", retry=True)
        return Response(found.to_bytes(), media_type="application/json")

    @app.get("/readyz")
    async def readyz() -> Response:
        if not service.ready:
            return _not_ready(service)
        return JSONResponse({"status": "ready", "parameter_version": service.recommender.version})

    return app


def _not_ready(service: RecommendService) -> Response:
    return error(503, "not_ready", service.failure or NOT_READY, retry=True)
