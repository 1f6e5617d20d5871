"""Who may look at the page: people's browsers, which cannot send a bearer token by themselves."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from urllib.parse import parse_qsl, urlencode

from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "onerec_dashboard"
OPEN = ("/livez", "/metrics")
"""They tell nothing of users."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
"""Of every answer: the page runs nothing but its own script, and nobody frames it."""


class BrowserGuard:
    """ASGI middleware: with a token, 401 for who shows it neither as bearer, nor as ``?token=`` in the first address, which
    becomes a cookie. Without one, 400 for names other than this machine's, as a stranger's page may have its name lead here.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token
        # The cookie is made from the token, so that who sees it cannot call the other services.
        self._pass = hmac.new(token.encode(), COOKIE.encode(), hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by itself, or pass the request on."""
        refused = self._refused(Request(scope)) if scope["type"] == "http" and scope["path"] not in OPEN else None
        await (refused or self.app)(scope, receive, send)

    def _refused(self, request: Request) -> Response | None:
        if not self.token:
            return None if _is_here(request.url.hostname) else PlainTextResponse("this is not the page's name\n", 400)
        if _same(request.query_params.get("token", ""), self.token):
            return self._welcome(request)
        return None if self._known(request) else PlainTextResponse("open this page once with ?token=… in its address\n", 401)

    def _known(self, request: Request) -> bool:
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        bearer = scheme.lower() == "bearer" and _same(shown.strip(), self.token)
        return bearer or _same(request.cookies.get(COOKIE, ""), self._pass)

    def _welcome(self, request: Request) -> Response:
        """The same address without the token, which shall not stay in a browser's history."""
        rest = urlencode([(key, value) for key, value in parse_qsl(request.url.query) if key != "token"])
        answer = RedirectResponse(request.url.path + (f"?{rest}" if rest else ""), 303)
        answer.set_cookie(COOKIE, self._pass, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return answer


def _same(shown: str, wanted: str) -> bool:
    return secrets.compare_digest(shown.encode(), wanted.encode())


def _is_here(name: str | None) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name or "").is_loopback
    except ValueError:
        return False
