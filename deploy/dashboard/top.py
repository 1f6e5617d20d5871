"""`onerec top`: the live screen, until q or Ctrl-C, or until the run ends.

waits for:    a key, or the next look
unblocked by: q, Ctrl-C, the interval
"""

from __future__ import annotations

import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from deploy.dashboard.screen import screen
from deploy.dashboard.state import LoopState
from deploy.dashboard.watch import Watch
from deploy.local.live import loop_details

PLAIN_EVERY_S = 10.0
QUIT = "q"


def show_top(watch: Watch, interval_s: float) -> LoopState:
    """Show the run until a person leaves or it has ended; the last state. Lines instead of a screen where the output is no
    terminal."""
    console = Console()
    try:
        return _screen(watch, console, interval_s) if console.is_terminal else _lines(watch, max(interval_s, PLAIN_EVERY_S))
    except KeyboardInterrupt:
        return watch.look()


def line(state: LoopState) -> str:
    """The state in one line."""
    restarts = {part.name: part.restarts for part in state.parts if part.restarts}
    told = " · ".join(f"{name} {value}" for name, value in loop_details(state.figures, restarts).items())
    problems = "; ".join(state.problems())
    return f"{state.ending()} · {told}" + (f" · WRONG: {problems}" if problems else "")


def _screen(watch: Watch, console: Console, interval_s: float) -> LoopState:
    state = watch.look()
    with _keys(), Live(screen(state, courses=True), console=console, auto_refresh=False, screen=True) as live:
        while not state.over and not _left(interval_s):
            state = watch.look()
            live.update(screen(state, courses=True), refresh=True)
    console.print(screen(state, courses=True))
    return state


def _lines(watch: Watch, interval_s: float) -> LoopState:
    while True:
        state = watch.look()
        print(line(state), flush=True)  # noqa: T201 - read by whoever it is piped to
        if state.over:
            return state
        time.sleep(interval_s)


@contextmanager
def _keys() -> Iterator[None]:
    """Keys are told at once and not shown, where there is a keyboard."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _left(interval_s: float) -> bool:
    """Wait for the next look; whether a person wants to leave instead."""
    if not sys.stdin.isatty():
        time.sleep(interval_s)
        return False
    told, _, _ = select.select([sys.stdin], [], [], interval_s)
    return bool(told) and sys.stdin.read(1).lower() == QUIT
