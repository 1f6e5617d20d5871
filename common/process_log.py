"""The log of a worker process on stderr: lines for people, or with ``ONEREC_LOG_FORMAT=json`` one JSON object a line.

A JSON line holds ``time`` (UTC), ``level``, ``logger``, ``message``, ``process``, ``pid`` and ``run``, for a failure its
traceback as ``error``, and those of `FACTS` that the call gives. Users appear only as `user_tag` names them.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType

from common.access import access
from common.endpoints import Endpoints
from common.printed_lines import PRINTED, PrintedLines

FORMAT_VARIABLE = "ONEREC_LOG_FORMAT"
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
BURST, WINDOW_S = 10, 60.0
"""So many records of one kind within so many seconds are let through."""
PRINTED_BURST = 200
"""Of what was printed: all of it is one kind, and a traceback is many lines."""
FACTS = ("version", "step", "reason", "user")
"""What a call may give as ``extra``: parameter version, trainer's step, kind of a failure, `user_tag`."""
QUIETER = dict.fromkeys(("kafka", "httpx", "uvicorn"), logging.WARNING) | {"kafka.net.selector": logging.ERROR}
"""Libraries that tell every request or every start, or warn of pauses that are our own steps."""


def start_log(process: str, run_folder: Path) -> None:
    """Begin to log, and say what was started; uncaught errors and warnings go to the log as well.

    Raises:
        ValueError: `FORMAT_VARIABLE` is neither ``text`` nor ``json``.
    """
    wanted = log_format()
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(logging.Formatter(TEXT))
    if wanted == "json":
        handler.setFormatter(JsonLines(process, run_folder))
        sys.stdout = sys.stderr = PrintedLines(handler.stream)
    handler.addFilter(FloodGate())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name, level in QUIETER.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda told: _log_uncaught(told.exc_type, told.exc_value, told.exc_traceback)
    logging.getLogger(process).info("started: version %s, Python %s", _own_version(), platform.python_version())


def log_format() -> str:
    """How logs are to be written: ``text`` or ``json``.

    Raises:
        ValueError: `FORMAT_VARIABLE` is neither.
    """
    wanted = os.environ.get(FORMAT_VARIABLE, "text")
    if wanted not in {"text", "json"}:
        raise ValueError(f"{FORMAT_VARIABLE} must be text or json, got {wanted!r}")
    return wanted


def user_tag(user_id: int) -> str:
    """A user's name in logs: 16 hex digits, a keyed hash of the id.

    Ids are small numbers, so that a plain hash could be undone by hashing them all. The key is ``ONEREC_ACCESS_LOG_KEY``;
    without it every process makes up its own, and a user's lines of two processes cannot be brought together.
    """
    return blake2b(str(user_id).encode(), digest_size=8, key=_key()).hexdigest()


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object."""

    def __init__(self, process: str, run_folder: Path) -> None:
        super().__init__()
        self._process, self._folder, self._run = process, run_folder, ""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": self._process,
            "pid": record.process,
            "run": self._run_name(),
        }
        line |= {name: vars(record)[name] for name in FACTS if vars(record).get(name) is not None}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)

    def _run_name(self) -> str:
        """Of the run once it has one: the reward service is started before it."""
        if not self._run:
            try:
                self._run = Endpoints.read(self._folder).run
            except ValueError:
                return ""
        return self._run


class FloodGate(logging.Filter):
    """Holds back what is said too often: a service that is away must not fill the disk. The next one says how many."""

    def __init__(self) -> None:
        super().__init__()
        self._since = time.monotonic()
        self._seen: Counter[tuple[str, str, str]] = Counter()
        self._held: Counter[tuple[str, str, str]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is let through; those of one logger, text and ``reason`` are of one kind."""
        now = time.monotonic()
        if now - self._since >= WINDOW_S:
            self._since = now
            self._seen.clear()
        kind = (record.name, str(record.msg), str(getattr(record, "reason", "")))
        self._seen[kind] += 1
        if self._seen[kind] > (PRINTED_BURST if record.name == PRINTED else BURST):
            self._held[kind] += 1
            return False
        if held := self._held.pop(kind, 0):
            record.msg = f"{record.msg} ({held} more like it were held back)"
        return True


@cache
def _key() -> bytes:
    given = access().log_key.get_secret_value().encode()
    return blake2b(given, digest_size=32).digest() if given else secrets.token_bytes(32)


def _own_version() -> str:
    try:
        return version("onerec-online")
    except PackageNotFoundError:  # run from the sources
        return "of the sources"


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    error = error or kind()
    logging.getLogger("uncaught").critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))
