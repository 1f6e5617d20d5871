"""What a person sees while the loop runs: a small live table in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from deploy.dashboard.figures import Figures
from deploy.local.shown import number, share

PLAIN_EVERY_S = 10.0


class View:
    """Shows the run's phases and the newest figures. Use it as a context manager, so that the terminal is given back."""

    def __init__(self, console: Console, on_phase: Callable[[str], None] = lambda _: None) -> None:
        """``on_phase`` is told each phase that begins."""
        self.console, self._on_phase = console, on_phase
        self.seconds: dict[str, float] = {}
        self._phase, self._began = "", 0.0
        self._details: dict[str, str] = {}
        self._said = 0.0
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> View:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_phase(done=error is None)
        if self.console.is_terminal:
            self._live.stop()

    def phase(self, name: str) -> None:
        """The next phase begins, and the one before has ended."""
        self._end_phase(done=True)
        self._phase, self._began, self._said = name, time.monotonic(), time.monotonic()
        self._details = {}
        self._on_phase(name)
        if not self.console.is_terminal:
            self._print(f"{name} …")

    def details(self, details: dict[str, str]) -> None:
        """Newest figures of the present phase, by name."""
        self._details = details
        if not self.console.is_terminal and time.monotonic() - self._said >= PLAIN_EVERY_S:
            self._said = time.monotonic()
            self._print("  " + " · ".join(f"{name} {value}" for name, value in details.items()))

    def note(self, line: str) -> None:
        """Something to know for longer than a phase."""
        self._print(f"  {line}")

    def _end_phase(self, done: bool) -> None:
        if self._phase:
            self.seconds[self._phase] = time.monotonic() - self._began
            mark = "[green]✓[/]" if done else "[red]✗[/]"
            self.console.print(f"{mark} {self._phase} [dim]{self.seconds[self._phase]:.0f} s[/]", highlight=False)
        self._phase = ""

    def _print(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)

    def _render(self) -> Group:
        self._spinner.update(text=f"{self._phase} {time.monotonic() - self._began:.0f} s")
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 3))
        for name, value in self._details.items():
            table.add_row(f"[dim]{name}", Text(value, overflow="ellipsis", no_wrap=True))
        return Group(self._spinner, table)


def loop_details(figures: Figures, restarts: dict[str, int]) -> dict[str, str]:
    """The loop's newest figures, by name."""
    if figures.step is None:
        return {"trainer": "waiting for the first step"}
    out = {
        "step": f"{figures.step:,}",
        "sessions": f"{number(figures.sessions)} at {number(figures.rates['sessions'], ',.0f')}/s",
        "loss": number(figures.loss, ".3f"),
        "groups": f"{number(figures.requested)} asked, {number(figures.trained)} trained, "
        f"{sum(figures.dropped.values()):,} dropped",
        "legality": share(figures.legality),
        "version": number(figures.version, "d"),
        "item index": number(figures.index_version, "d"),
        "dead letters": number(figures.rejected),
    }
    again = ", ".join(f"{name} {count}" for name, count in restarts.items() if count)
    return out | ({"restarts": again} if again else {})
