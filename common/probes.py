"""What a worker without a web service of its own answers over HTTP: ``/livez``, ``/readyz`` and ``/metrics``.

Live is a process whose loop has turned lately; who restarts what is not live mends a loop that hangs, and nothing else.
Ready is one that could do its work now.
"""

from __future__ import annotations

import argparse
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CONTENT_TYPE_LATEST

from common.metrics import render

LIVE_S = 300.0
"""Longest that a turn of a worker's loop may take: a step, or a call to a broker that is away, with its repetitions."""


class Pulse:
    """The beat of a worker's loop, and whether the worker is able to do its work."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.able = False
        self._clock = clock
        self._beat_at: float | None = None

    def beat(self) -> None:
        """To be called at every turn of the loop."""
        self._beat_at = self._clock()

    @property
    def live(self) -> bool:
        """Whether the loop turns. Before its first turn a worker is starting, which has no bound here."""
        return self._beat_at is None or self._clock() - self._beat_at < LIVE_S

    @property
    def ready(self) -> bool:
        """Whether the worker is live and able."""
        return self.able and self.live


PULSE = Pulse()
"""Of this process."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--host`` and ``--metrics-port``, for `serve`."""
    parser.add_argument("--host", default="127.0.0.1", help="IP address of /livez, /readyz and /metrics (default: loopback)")
    parser.add_argument("--metrics-port", type=port, default=0, help="their port; 0 takes a free one (default)")


def port(text: str) -> int:
    """A TCP port, as an argument's type; the program ends with one line for anything else."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a port from 0 to 65535, got {text!r}")
    return int(text)


def serve(host: str, number: int, pulse: Pulse = PULSE) -> str:
    """Answer from a daemon thread until the process ends; the metrics' address.

    Several ranks on one machine take as many ports, from ``number`` on.

    Raises:
        OSError: the host is no address of this machine, or the port is taken.
    """
    own = number + int(os.environ.get("LOCAL_RANK", "0")) if number else 0

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    server = make_server(host, own, _answers(pulse), Server, _Handler)
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    return f"{url_of(host, server.server_port)}/metrics"


def url_of(host: str, number: int) -> str:
    """The address at which others find what listens at ``host``: this machine's name where it listens at all addresses."""
    named = socket.gethostname() if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound
    return f"http://[{named}]:{number}" if ":" in named else f"http://{named}:{number}"


class _Handler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Probes come every few seconds: nothing of them is logged."""


def _answers(pulse: Pulse) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """The WSGI application."""
    states = {"/livez": lambda: pulse.live, "/readyz": lambda: pulse.ready}

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path, kind, body = environ["PATH_INFO"], "text/plain; charset=utf-8", b""
        if path == "/metrics":
            status, kind, body = HTTPStatus.OK, CONTENT_TYPE_LATEST, render()
        elif path in states:
            status = HTTPStatus.OK if states[path]() else HTTPStatus.SERVICE_UNAVAILABLE
        else:
            status = HTTPStatus.NOT_FOUND
        start_response(f"{status.value} {status.phrase}", [("Content-Type", kind)])
        return [body or f"{status.phrase.lower()}\n".encode()]

    return answer
