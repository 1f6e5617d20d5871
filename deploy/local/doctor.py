"""``onerec doctor``: which checks apply, and their findings for people."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.settings import load_settings
from deploy.local.checks import Check, Finding, find
from deploy.local.dependency_checks import RunServers, server_checks
from deploy.local.machine_checks import machine_checks
from deploy.local.run_checks import RunChecks
from deploy.local.run_folder import RunFolder

MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[red]✗[/]", "skipped": "[dim]-[/]"}
WIDTH = 120


def checks_for(run: RunFolder | None, data: Path | None, kafka: str) -> list[Check]:
    """The checks of this machine, of given servers, and of a run.

    Raises:
        ValueError: the run's settings, or those of the environment, cannot be read.
    """
    if run is None:
        redis_url = load_settings().redis.url.get_secret_value()
        return [*machine_checks(Path(), data, not (kafka and redis_url)), *server_checks(kafka, redis_url)]
    settings = run.settings
    machine = machine_checks(run.path, data, not settings.stream.bootstrap)
    return [*machine, *server_checks(kafka, ""), *RunServers(run, settings).checks(), *RunChecks(run, settings).checks()]


def examine(checks: list[Check]) -> list[Finding]:
    """All findings; shows which check is under way."""
    found = []
    with Console(stderr=True).status("") as status:
        for check in checks:
            status.update(f"checking {check.name}")
            found.append(find(check))
    return found


def table(found: list[Finding]) -> str:
    """One row a finding, with its remedy below, and a last line that sums up."""
    rows = Table(box=None, show_header=False, padding=(0, 1))
    rows.add_column(no_wrap=True)
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    for one in found:
        text = Text(one.found)
        if one.remedy:
            text.append(f"\n→ {one.remedy}", style="bold")
        rows.add_row(MARKS[one.state], one.check, text)
    errors, warnings = (sum(one.state == state for one in found) for state in ("error", "warning"))
    terminal = sys.stdout.isatty()
    console = Console(file=io.StringIO(), force_terminal=terminal, width=None if terminal else WIDTH)
    with console.capture() as captured:
        console.print(rows)
        console.print(f"{len(found)} checks, {errors} errors, {warnings} warnings", highlight=False)
    return captured.get()
