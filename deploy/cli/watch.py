"""Commands that show how a run goes: status, top, dashboard."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.console import RunFolderOption

if TYPE_CHECKING:
    from deploy.local.run_folder import RunFolder

WRONG = 1
Run = Annotated[Path | None, typer.Argument(help="The run's folder.  [default: the newest under runs/]", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("status")(status)
    app.command("top")(top)
    app.command("dashboard")(dashboard)


def status(
    run: Run = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole state as JSON, courses included.")] = False,
) -> None:
    """Show on one screen how a run is: its parts, figures, versions, last checkpoint, dead letters.

    Exit code: 0 all is well (or the run has finished), 1 something is wrong (told on the screen), 2 there is no such run.
    What cannot be had is a dash, or null in JSON, never a zero.
    """
    from rich.console import Console

    from deploy.dashboard.screen import screen
    from deploy.dashboard.watch import Watch

    with Watch(chosen_run(run)) as watch:
        state = watch.look()
    problems = state.problems()
    if as_json:
        told = {"problems": problems, "notes": state.notes()}
        sys.stdout.write(json.dumps(json.loads(state.model_dump_json()) | told) + "\n")
    else:
        Console(width=None if sys.stdout.isatty() else 100).print(screen(state, courses=False))
    raise typer.Exit(WRONG if problems else 0)


def top(
    run: Run = None,
    interval: Annotated[
        float, typer.Option("--interval", min=0.5, max=60, metavar="SECONDS", help="Between two looks.")
    ] = 2.0,
) -> None:
    """Show a run live: what `onerec status` shows, with the courses of loss, reward, legality and staleness.

    Leave with q or Ctrl-C; ends by itself when the run does. Where the output is no terminal, it is a line every ten
    seconds. Looking costs the run next to nothing: files are read from where the last look ended, metrics over HTTP.
    """
    from deploy.dashboard.top import show_top
    from deploy.dashboard.watch import Watch

    with Watch(chosen_run(run)) as watch:
        state = show_top(watch, interval)
    raise typer.Exit(WRONG if state.problems() else 0)


def dashboard(
    run_folder: RunFolderOption,
    host: Annotated[
        str, typer.Option("--host", help="IP address to listen on; others than loopback need ONEREC_ACCESS_SERVICE_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 0,
) -> None:
    """Serve the web page of a run, running or over, until Ctrl-C. Its address goes to RUN/ready/dashboard.json, too.

    The loop as a picture with live rates, courses of loss, reward, legality and staleness, versions per actor, dead letters,
    and what the newest parameters recommend to a user beside what the version before did. `onerec up` serves it by itself.
    """
    import logging

    from deploy.dashboard.page import serve_page
    from deploy.local.run_folder import RunFolder

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "kafka", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    serve_page(RunFolder.open(run_folder), (host, port))


def chosen_run(given: Path | None) -> RunFolder:
    """The run of this folder, or the newest one.

    Raises:
        ValueError: it is no run folder, or there is none under runs/.
    """
    from deploy.local.run_folder import RunFolder

    return RunFolder.newest() if given is None else RunFolder.open(given)
