"""A reward service at the network's end: a real HTTP server in a thread, answering from a script."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from common.messages import ScoreRequest, ScoreResponse


def scores_of(item_ids: list[int]) -> list[float]:
    """The stub's deterministic score of each item."""
    return [(item % 10) / 10 for item in item_ids]


@dataclass
class Reply:
    """One scripted answer; an empty body means the scores."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    version: str = "stub-1"
    delay_s: float = 0.0


class RewardStub:
    """Serves the script's replies in turn, then plain scores. ``hook`` sees each request and the client's port first."""

    def __init__(self, script: list[Reply] | None = None, hook: Callable[[ScoreRequest, int], None] | None = None) -> None:
        self.requests: list[ScoreRequest] = []
        self.paths: list[str] = []
        self.script = list(script or [])
        self._hook = hook
        self._released = threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                stub._answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def release(self) -> None:
        """End all delays."""
        self._released.set()

    def __enter__(self) -> RewardStub:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        request = ScoreRequest.model_validate_json(handler.rfile.read(int(handler.headers["content-length"])))
        self.requests.append(request)
        self.paths.append(handler.path)
        if self._hook is not None:
            self._hook(request, handler.client_address[1])
        reply = self.script.pop(0) if self.script else Reply()
        self._released.wait(reply.delay_s)
        scores = ScoreResponse(
            reward_version=reply.version,
            index_version=request.index_version,
            rewards=scores_of(request.item_ids),
            p_score=[],
            towers={},
        )
        body = reply.body or (scores.to_bytes() if reply.status == 200 else b"scripted failure")
        try:
            handler.send_response(reply.status)
            for name, value in (reply.headers | {"content-length": str(len(body))}).items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(body)
        except OSError:
            handler.close_connection = True
