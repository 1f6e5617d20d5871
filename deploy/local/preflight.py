"""What can be known to be wrong before anything is started: the data folder, and servers that nobody answers at.

Imports nothing heavy: a mistake is told within a second.
"""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

CONNECT_S = 3.0
MARKS = {
    "log": ("log.json",),
    "kuairand": ("interactions.csv.gz", "history_before_0425.jsonl.gz"),
    "amazon": ("interactions.csv.gz", "items.jsonl.gz"),
}
"""Files by which a data folder is known for what it is."""
PROFILES = {"log": "demo", "kuairand": "kuairand", "amazon": "amazon", "simulate": "demo"}


class PreflightError(ValueError):
    """The run cannot be started as asked; one line that says why."""


def detect(data: Path | None) -> dict[str, str]:
    """The source of a run's sessions: ``kind`` (log, kuairand, amazon, simulate) and ``path``.

    Raises:
        PreflightError: the folder is none of them.
    """
    if data is None:
        return {"kind": "simulate", "path": ""}
    if not data.is_dir():
        raise PreflightError(f"{data} is not a folder: --data takes a session log, a KuaiRand or an Amazon folder")
    for kind, names in MARKS.items():
        if all((data / name).is_file() for name in names):
            return {"kind": kind, "path": str(data.resolve())}
    wanted = "; ".join(f"{kind}: {' and '.join(names)}" for kind, names in MARKS.items())
    raise PreflightError(f"{data} is no data folder: it has none of the files that mark one ({wanted})")


def default_profile(source: dict[str, str]) -> str:
    """The shipped profile for a kind of data; a log made from a public data set gets that data set's."""
    if source["kind"] == "log":
        origin = json.loads((Path(source["path"]) / "log.json").read_bytes()).get("source", "")
        return PROFILES.get(origin, "demo")
    return PROFILES[source["kind"]]


def check_kafka(bootstrap: str) -> None:
    """Raises PreflightError unless somebody listens at one of ``HOST:PORT[,HOST:PORT...]``."""
    failures = []
    for address in bootstrap.split(","):
        host, separator, port = address.strip().rpartition(":")
        if not separator or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise PreflightError(f"--kafka must be HOST:PORT, got {bootstrap!r}")
        try:
            return check_listens("Kafka broker", host.strip("[]"), int(port))
        except PreflightError as error:
            failures.append(error)
    raise failures[0]


def check_url(option: str, url: str) -> None:
    """Raises PreflightError unless it is ``http://HOST[:PORT]`` or ``https://…``."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, or a port out of range
        usable = False
    if not usable:
        raise PreflightError(f"{option} must be http://HOST:PORT, got {url!r}")


def check_name(option: str, name: str) -> None:
    """Raises PreflightError unless topics may be called so; an empty name is none."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,100}", name):
        raise PreflightError(f"{option} must be at most 100 letters, digits, '.', '_' and '-', got {name!r}")


def check_redis(url: str) -> None:
    """Raises PreflightError unless somebody listens at a ``redis://`` URL; never shows its password."""
    parts = urlsplit(url)
    try:
        port = parts.port or 6379
    except ValueError:
        raise PreflightError("ONEREC_REDIS__URL: its port is not a number from 1 to 65535") from None
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname:
        raise PreflightError("ONEREC_REDIS__URL must look like redis://:PASSWORD@HOST:PORT/0")
    check_listens("Redis server", parts.hostname, port)


def check_listens(what: str, host: str, port: int) -> None:
    """Raises PreflightError unless somebody listens there; ``what`` says who should."""
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError as error:
        raise PreflightError(f"no {what} at {host}:{port}: {error.strerror or error}") from None
