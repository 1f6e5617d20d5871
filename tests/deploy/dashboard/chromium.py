"""The distribution's Chromium without a window, driven over its debugging pipe: what it shows, and what it complains of."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Any

BINARIES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 60.0
SETTLE_S = 20.0
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Nothing but this machine can be reached: a page that needs the network shows that here.
    "--proxy-server=127.0.0.1:9",
    "--proxy-bypass-list=127.0.0.1",
)


def binary() -> str | None:
    """Chromium's path, if it is installed."""
    return next((path for name in BINARIES if (path := shutil.which(name))), None)


class Chromium:
    """One page. `complaints` are errors on its console, exceptions of its scripts, and requests that failed."""

    def __init__(self, profile: Path) -> None:
        path = binary()
        assert path is not None, "no Chromium"
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, commands, 3), (os.POSIX_SPAWN_DUP2, answers, 4)]
        null = os.open(os.devnull, os.O_RDWR)
        actions += [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        argv = [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.pid = os.posix_spawn(path, argv, os.environ, file_actions=actions, setsid=True)
        for descriptor in (commands, answers, null):
            os.close(descriptor)
        self._number, self._buffer, self._session = 0, b"", ""
        self.complaints: list[str] = []
        self._loaded = 0
        target = next(t for t in self._ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._read)
        os.close(self._write)

    def show(self, url: str, width: int, height: int = 900, scale: float = 1.0, dark: bool = False) -> None:
        """Load a page at this width, as a phone does below 500 px."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500}
        self._ask("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        loaded = self._loaded
        self._ask("Page.navigate", url=url)
        deadline = time.monotonic() + PATIENCE_S
        while self._loaded == loaded:
            self._hear(deadline)

    def evaluate(self, expression: str) -> Any:
        """The value of a script's expression, awaited if it is a promise."""
        told = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        self.evaluate(
            f"new Promise((done, failed) => {{ const until = Date.now() + {SETTLE_S * 1000};"
            f"const look = () => ({expression}) ? done(true) : Date.now() > until ? failed('never') : setTimeout(look, 50);"
            "look(); })"
        )

    def picture(self, path: Path, height: int = 0) -> None:
        """A PNG of the whole page, or of its first ``height`` pixels."""
        size = self._ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        told = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(told["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            told = self._hear(deadline)
            if told.get("id") == self._number:
                assert "error" not in told, told
                result: dict[str, Any] = told["result"]
                return result

    def _hear(self, deadline: float) -> dict[str, Any]:
        """The next message."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"Chromium said nothing for {PATIENCE_S:g} s"
            data = os.read(self._read, 1 << 20)
            assert data, "Chromium has ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        told: dict[str, Any] = json.loads(line)
        self._note(told.get("method", ""), told.get("params", {}))
        return told

    def _note(self, event: str, told: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded += 1
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"]))
        elif event == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(told["entry"]))
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(told["args"]))
        elif event == "Network.loadingFailed":
            self.complaints.append(str(told))
