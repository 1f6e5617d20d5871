"""What stands before our HTTP services: who may call, how large a request may be, and how long it may take to arrive."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection
from typing import Any

from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST = 8 * 2**20
"""Bytes of a request's body: as those of a record on the stream, which hold the same contexts."""
ARRIVES_S = 10.0
"""From a request's head to the end of its body."""
OPEN = ("/livez", "/readyz", "/metrics")
"""Probes and metrics tell nothing of users, and who asks for them has no token; networks keep strangers away from them."""


class Guard:
    """ASGI middleware: 401 ``unauthorized`` without the token, 413 ``too_large``, 408 ``slow``, as typed JSON."""

    def __init__(
        self,
        app: ASGIApp,
        token: str = "",
        largest: int = LARGEST,
        arrives_s: float = ARRIVES_S,
        open_paths: Collection[str] = OPEN,
    ) -> None:
        self.app, self.token, self.largest, self.arrives_s, self.open_paths = app, token, largest, arrives_s, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by itself, or pass the request on with its body read."""
        if scope["type"] != "http" or scope["path"] in self.open_paths:
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self.token and not _shows(headers.get(b"authorization", b""), self.token):
            refused = _error(401, "unauthorized", "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
            await refused(scope, receive, send)
            return
        body = await self._body(headers, receive)
        if body is not None:
            await (body if isinstance(body, Response) else self.app)(scope, _once(body, receive), send)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | Response | None:
        """The whole body, or why it is refused; None if its sender went away, to whom nothing can be said."""
        told = headers.get(b"content-length", b"0")
        too_large = _error(413, "too_large", f"a request's body must have at most {self.largest} bytes")
        if not told.isdigit() or int(told) > self.largest:
            return too_large
        parts, size = list[bytes](), 0
        try:
            async with asyncio.timeout(self.arrives_s):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.largest:
                        return too_large
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            return _error(408, "slow", f"the request did not arrive within {self.arrives_s:g} s")
        return b"".join(parts)


def _shows(header: bytes, token: str) -> bool:
    scheme, _, shown = header.partition(b" ")
    return scheme.lower() == b"bearer" and secrets.compare_digest(shown.strip(), token.encode())


def _error(status: int, kind: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    """As `common.http_service.error`. The connection ends, since what is left of the body is not read."""
    return JSONResponse({"error": kind, "detail": detail}, status, {"Connection": "close"} | (headers or {}))


def _once(body: bytes | Response, receive: Receive) -> Receive:
    """Gives a body that was read, then what comes after it."""
    given: list[Any] = [] if isinstance(body, Response) else [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return given.pop() if given else await receive()

    return next_message
