"""What a person sees while the loop runs: a small live table in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from deploy.local.statistics import RunStatistics

PLAIN_EVERY_S = 10.0
RECENT = 50


class View:
    """Shows the run's phases and the newest figures. Use it as a context manager, so that the terminal is given back."""

    def __init__(self, console: Console) -> None:
        self.console = console
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


def loop_details(statistics: RunStatistics, restarts: dict[str, int]) -> dict[str, str]:
    """The loop's newest figures, by name."""
    step = statistics.last_step
    if not step:
        return {"trainer": "waiting for the first step"}
    counters: dict[str, Any] = step["counters"]
    recent = statistics.steps[-RECENT:]
    groups = statistics.groups
    legal = [line["legal_share"] for line in groups[-RECENT:] if line.get("legal_share") is not None]
    outcomes = statistics.outcomes()
    dropped = sum(outcomes.values()) - outcomes.get("trained", 0)
    out = {
        "step": f"{step['step']:,}",
        "sessions": f"{counters.get('sessions.consumed', 0):,} at {_rate(recent):,.0f}/s",
        "loss": f"{_recent_loss(recent):.3f}",
        "groups": f"{counters.get('requests.sent', 0):,} asked, {outcomes.get('trained', 0):,} trained, {dropped:,} dropped",
        "legality": f"{100 * sum(legal) / len(legal):.1f} %" if legal else "-",
        "version": str(step["version"]),
        "item index": str(step["index_version"]),
        "dead letters": str(counters.get("sessions.rejected", 0)),
    }
    again = ", ".join(f"{name} {count}" for name, count in restarts.items() if count)
    return out | ({"restarts": again} if again else {})


def _rate(steps: list[dict[str, Any]]) -> float:
    """Sessions per second over the steps."""
    consumed = [step["counters"].get("sessions.consumed", 0) for step in (steps[0], steps[-1])]
    seconds = (steps[-1]["time_ms"] - steps[0]["time_ms"]) / 1000
    return float((consumed[1] - consumed[0]) / seconds) if seconds > 0 else 0.0


def _recent_loss(steps: list[dict[str, Any]]) -> float:
    """Mean next-token loss per target over the steps."""
    targets = sum(step["targets"] for step in steps)
    return float(sum(sum(step["loss_per_level"]) * step["targets"] for step in steps) / targets) if targets else float("nan")
