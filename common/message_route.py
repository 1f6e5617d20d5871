"""A route of an HTTP service that reads one large message."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError

from common.messages import Message


class MessageRoute(APIRoute):
    """For an endpoint that takes a message alone; it is validated from the body's bytes.

    FastAPI has Python make objects of the JSON first, which takes longer than to validate them.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request.

        Raises:
            RequestValidationError: the body is no JSON, or no such message (each field that is wrong).
        """
        assert self.body_field is not None, f"{self.path} must take a message"
        kind: Any = self.body_field.field_info.annotation
        assert issubclass(kind, Message), f"{self.path} must take a message, got {kind}"
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            _check_is_json(request)
            try:
                message = kind.model_validate_json(await request.body())
            except ValidationError as found:
                told = found.errors(include_url=False, include_context=False, include_input=False)
                raise RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in told]) from None
            response: Response = await endpoint(message)
            return response

        return handle


def _check_is_json(request: Request) -> None:
    """Web pages may have browsers send other kinds of content to any service that these can reach, but not this one."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        told = {"loc": ("header", "content-type"), "msg": f"must be application/json, got {kind!r}", "type": "content_type"}
        raise RequestValidationError([told])
