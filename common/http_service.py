"""What our HTTP services share: how one is served and announced, typed errors, and its metrics.

Errors are typed JSON, ``{"error": KIND, "detail": …}``: 422 ``invalid`` names the field, 503 ``not_ready`` or ``overloaded``
comes with Retry-After, 500 ``internal`` leaves its cause to the log; `common.http_guard` adds what it refuses.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.access import access
from common.http_guard import Guard
from common.metrics import render
from common.probes import port, url_of
from common.process_log import start_log
from common.worker import prefer_latency

STOP_S = 5
"""What requests in flight get to finish in."""
log = logging.getLogger(__name__)


def error(status: int, kind: str, detail: Any, retry: bool = False) -> JSONResponse:
    """An error's response; ``retry`` says that trying again soon may help."""
    return JSONResponse({"error": kind, "detail": detail}, status, {"Retry-After": "1"} if retry else None)


def add_basics(app: FastAPI, path: str, requests: Counter, seconds: Histogram) -> None:
    """``/livez`` and ``/metrics``, and for requests of ``path`` a count by status code, their time, and typed errors.

    Who calls anything but probes and metrics must show the token of this process's environment, if that has one.
    """
    log = logging.getLogger(app.title)
    app.add_middleware(Guard, token=access().service_token.get_secret_value())

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(render(), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, found: RequestValidationError) -> Response:
        told = [{"loc": list(e["loc"]), "msg": e["msg"], "type": e["type"]} for e in found.errors()]
        return error(422, "invalid", told)  # without the input, which may be megabytes

    app.add_middleware(Counted, path=path, requests=requests, seconds=seconds, log=log)


class Counted:
    """ASGI middleware: counts and times the requests of a path, and answers 500 where they fail.

    Starlette's own way to write one hands every message through a task and a queue, which takes as long as all the rest.
    """

    def __init__(self, app: ASGIApp, path: str, requests: Counter, seconds: Histogram, log: logging.Logger) -> None:
        self.app, self.path, self.requests, self.seconds, self.log = app, path, requests, seconds, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and watch its answer."""
        if scope["type"] != "http" or scope["path"] != self.path:
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            self.log.exception("a request to %s failed", self.path)
            if status:  # the answer has begun
                raise
            await error(500, "internal", "the request failed; the service's log has the cause")(scope, receive, watched)
        if status:  # 0: whoever asked went away before the whole request was here
            self.requests.labels(code=str(status)).inc()
            self.seconds.observe(time.perf_counter() - began)


class _ReadyServer(uvicorn.Server):
    """A server that announces itself once its sockets accept requests."""

    def __init__(self, config: uvicorn.Config, url: str, ready_file: Path) -> None:
        super().__init__(config)
        self.url, self.ready_file = url, ready_file

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start (which includes the warm-up), then write the ready file."""
        await super().startup(sockets)
        prefer_latency()
        logging.getLogger(self.ready_file.stem).info("ready at %s", self.url)
        self.ready_file.parent.mkdir(exist_ok=True)
        temporary = self.ready_file.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"url": self.url, "pid": os.getpid(), "metrics": f"{self.url}/metrics"}))
        temporary.replace(self.ready_file)
        log.info("%s answers at %s", self.ready_file.stem, self.url)


def serve(app: FastAPI, run_folder: Path, worker: str, address: tuple[str, int]) -> None:
    """Serve at (host, port) until SIGTERM or SIGINT. While it answers, ``RUN/ready/WORKER.json`` says where.

    Raises:
        ValueError: the host is no address, or others than this machine could call without a token.
        OSError: the port is taken.
    """
    host, number = address
    _check_host(host)
    listener = listening(host, number)
    url = url_of(host, listener.getsockname()[1])
    ready_file = run_folder / "ready" / f"{worker}.json"
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=STOP_S)
    server = _ReadyServer(config, url, ready_file)
    # uvicorn raises the signal again after its clean stop; without these that would end the process by signal
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    try:
        server.run(sockets=[listener])
    finally:
        ready_file.unlink(missing_ok=True)


def listening(host: str, port: int) -> socket.socket:
    """A bound socket, which names its protocol: asyncio sends at once only on those that do. On others the body of an answer
    waits some 40 ms until the caller has acknowledged its head."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def _check_host(host: str) -> None:
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ValueError(f"host must be an IP address to listen on, got {host!r}") from None
    if not here and not access().service_token.get_secret_value():
        raise ValueError(f"host {host} can be reached from elsewhere: that needs ONEREC_ACCESS_SERVICE_TOKEN")


def run_service(
    package: str, about: str, run: Callable[[Path, tuple[str, int]], None], errors: tuple[type[Exception], ...]
) -> int:
    """Parse ``--run-folder``, ``--host`` and ``--port``, run the service, and give the process's exit status: 1 and one line
    in the log for one of ``errors``, which say what is wrong outside the program."""
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=about)
    parser.add_argument("--run-folder", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1", help="IP address to listen on (default: loopback alone)")
    parser.add_argument("--port", type=port, default=0, help="0 takes a free port (default)")
    arguments = parser.parse_args()
    try:
        start_log(package, arguments.run_folder)
        run(arguments.run_folder, (arguments.host, arguments.port))
    except errors as error_:
        logging.getLogger(package).error("%s", error_)
        return 1
    return 0
