"""Holds the first worker of a loop that reaches the asked phase of its work, until a fault has been given from outside.

Python loads this file at the start of every process that has this folder on its path and `FOLDER` in its environment; the
workers are those that are shipped, and nothing in them knows of it. The phase is asked for by a file, see `Hold`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import wrapt

FOLDER = "HELD_IN"
PHASES: dict[str, tuple[str, str, str]] = {
    "waiting": ("trainer.record_buffer", "RecordBuffer.fill", "before"),
    "generating": ("rollout.engine", "GenerationEngine.generate", "before"),
    "scoring": ("reward_service.scorer", "Scorer.score", "before"),
    "producing": ("rollout.fleet", "Fleet._write_statistics", "after"),
    "publishing": ("common.parameter_channel.publisher", "Publisher._write", "after"),
    "checkpointing": ("trainer.checkpoint", "_write_synced", "after"),
}
"""Module, function, and on which side of a call the worker is held: for sessions, with a batch taken, with a request
taken, with groups made and none produced, with chunks out and no manifest, with the first file of a checkpoint written."""
AT_MOST_S = 20.0


class Hold:
    """One phase at a time: a file asks for it, a worker says its process id in another one and waits until both are gone."""

    def __init__(self, folder: Path) -> None:
        self.asked, self.held = folder / "asked", folder / "held"

    def ask(self, phase: str) -> None:
        """From now on the first worker that reaches the phase is held."""
        new = self.asked.with_suffix(".new")
        new.write_text(phase)
        new.replace(self.asked)

    def holder(self) -> int | None:
        """Process id of the worker that is held now."""
        with suppress(OSError, ValueError):
            return int(self.held.read_text())
        return None

    def release(self) -> None:
        """The worker goes on."""
        self.asked.unlink()
        self.held.unlink()

    def here(self, phase: str) -> None:
        """Called by a worker in a phase: stay, if this is what was asked for and nobody else is held."""
        try:
            if self.asked.read_text() != phase:
                return
            with self.held.open("x") as file:
                file.write(str(os.getpid()))
        except OSError:
            return
        deadline = time.monotonic() + AT_MOST_S
        while self.held.exists():
            if time.monotonic() > deadline:  # nobody waits forever; the test sees that nobody is held any more
                self.held.unlink(missing_ok=True)
            time.sleep(0.005)


def held_around(hold: Hold, phase: str, when: str) -> Callable[..., Any]:
    """What takes a function's place."""

    def instead(function: Callable[..., Any], _: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if when == "before":
            hold.here(phase)
        returned = function(*arguments, **named)
        if when == "after":
            hold.here(phase)
        return returned

    return instead


def install(hold: Hold) -> None:
    """Once their modules are imported, the functions of `PHASES` hold their callers."""
    for phase, (module, path, when) in PHASES.items():
        wrap = partial(wrapt.wrap_function_wrapper, name=path, wrapper=held_around(hold, phase, when))
        wrapt.register_post_import_hook(wrap, module)


if __name__ == "sitecustomize" and FOLDER in os.environ:
    install(Hold(Path(os.environ[FOLDER])))
