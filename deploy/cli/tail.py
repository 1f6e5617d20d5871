"""The command that shows what passes through a run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

Count = Annotated[int, typer.Option("--last", min=0, help="Begin with this many of the newest.")]


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("tail")(tail)


def tail(
    name: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="sessions, groups, requests, items, dead-letters or metrics.", show_default=False
        ),
    ],
    run_folder: Annotated[
        Path | None, typer.Option("--run-folder", help="The run.  [default: the newest under runs/]", show_default=False)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    user: Annotated[
        int | None, typer.Option("--user", min=0, help="Of sessions, requests, groups: this user's.", show_default=False)
    ] = None,
    item: Annotated[
        int | None, typer.Option("--item", min=0, help="Of sessions, groups, items: with this item.", show_default=False)
    ] = None,
    version: Annotated[
        int | None,
        typer.Option("--version", min=0, help="Of groups, metrics: of this parameter version.", show_default=False),
    ] = None,
    last: Count = 10,
    as_json: Annotated[
        bool, typer.Option("--json", help="Whole messages as JSON lines, instead of one short line each.")
    ] = False,
) -> None:
    """Show the newest messages of a run, and with -f those that follow.

    sessions, groups, requests, items and dead-letters are the run's topics; metrics are the trainer's steps and settled
    groups. Times are UTC, positions are PARTITION/OFFSET. With a filter the whole topic is read.
    """
    from deploy.data.place import Place
    from deploy.data.tail import KINDS, NAMES, Filters, tail_statistics, tail_topic
    from deploy.local.run_folder import RunFolder

    if name not in NAMES:
        raise ValueError(f"tail shows one of {', '.join(NAMES)}, got {name!r}")
    filters = Filters(user, item, version)
    filters.check(name)
    run = RunFolder.newest() if run_folder is None else RunFolder.open(run_folder)
    if name in KINDS:
        lines = tail_topic(Place.of(run.path, "", ""), name, filters, last, follow, as_json)
    else:
        lines = tail_statistics(run.path, filters, last, follow, as_json)
    try:
        for line in lines:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
