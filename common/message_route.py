"""A route of an HTTP service that answers large messages in other threads than the event loop's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError

from common.messages import Message

Work = Callable[[], Response]


def message_route(run: Callable[[Work], Awaitable[Response]]) -> type[APIRoute]:
    """A class of routes, for endpoints that take a message alone and are no coroutines.

    ``run`` has both done in a thread of its choice, or answers without: the message is validated, from the body's bytes, and
    the endpoint called. FastAPI would have the event loop make Python objects of the JSON first, which takes longer than to
    validate it, and holds up every other thread that needs the interpreter.
    """

    class MessageRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            assert self.body_field is not None, f"{self.path} must take a message"
            kind: Any = self.body_field.field_info.annotation
            assert issubclass(kind, Message), f"{self.path} must take a message, got {kind}"
            endpoint = self.endpoint

            async def handle(request: Request) -> Response:
                _check_is_json(request)
                body = await request.body()
                return await run(lambda: endpoint(_validated(kind, body)))

            return handle

    return MessageRoute


def _check_is_json(request: Request) -> None:
    """Web pages may have browsers send other kinds of content to any service that these can reach, but not this one."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        told = {"loc": ("header", "content-type"), "msg": f"must be application/json, got {kind!r}", "type": "content_type"}
        raise RequestValidationError([told])


def _validated(kind: type[Message], body: bytes) -> Message:
    """The message.

    Raises:
        RequestValidationError: the body is no JSON, or no such message (each field that is wrong).
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as found:
        told = found.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in told]) from None
