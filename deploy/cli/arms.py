"""The command that compares the arms of an online experiment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.cli.console import check_file, say


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("arms")(arms)


def arms(
    run_folder: Annotated[Path, typer.Argument(help="The folder of a run whose brokers are up.", show_default=False)],
    simulate: Annotated[
        int, typer.Option("--simulate", metavar="USERS", min=0, help="First let this many simulated users ask for lists.")
    ] = 0,
    sessions: Annotated[int, typer.Option("--sessions", min=1, help="Of each of these users.")] = 3,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to this file, too.", show_default=False)
    ] = None,
) -> None:
    """Compare the arms of the recommend endpoint (recommend.arms) by the sessions that came back.

    Each arm beside the first: play time, likes, follows, comments and more of a session, in percent, with 95 % intervals
    over users. The users of a simulated log can be let ask the endpoint, answer what they get, and send their sessions back.
    """
    from deploy.local.arm_traffic import send_traffic
    from deploy.local.arms import arms_table, compare, read_sessions
    from deploy.local.run_folder import RunFolder, read_json

    run = RunFolder.open(run_folder)
    settings, endpoints = run.settings, read_json(run.endpoints)
    if not endpoints:
        raise ValueError(f"{run_folder} is not a started run: endpoints.json is missing")
    check_file("--json", json_file)
    if simulate:
        send_traffic(run, simulate, sessions, say)
    stream = settings.stream
    came_back = read_sessions(endpoints["kafka"], endpoints["prefix"], stream.timeout_s)
    figures = compare(came_back, [arm.name for arm in settings.recommend.arms], settings.seed)
    if json_file is not None:
        json_file.write_text(json.dumps([arm.model_dump(mode="json") for arm in figures], indent=1) + "\n")
    Console().print(arms_table(figures))
