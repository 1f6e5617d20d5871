"""Commands that make session logs: simulate, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.settings import load_settings
from deploy.cli.console import Overrides, Profile, say

Out = Annotated[Path, typer.Option("--out", help="Folder of the log to write; must not exist yet.")]
Folder = Annotated[Path, typer.Argument(help="The data set's folder.", show_default=False)]
importers = typer.Typer(help="Turn a public data set into a session log.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("simulate")(simulate)
    app.add_typer(importers, name="import")


def simulate(out: Out = Path("simulated"), profile: Profile = "demo", overrides: Overrides = []) -> None:  # noqa: B006
    """Write a session log of simulated users whose true rewards are known."""
    settings = load_settings(profile, overrides)
    _check_free(out)
    from deploy.data.simulator import simulate as run

    run(settings, out, say)


@importers.command("kuairand")
def kuairand(folder: Folder, out: Out = Path("kuairand")) -> None:
    """KuaiRand (Kuaishou short video): one session per user and 6-hour window."""
    _check_free(out)
    from deploy.data.kuairand import import_kuairand

    import_kuairand(folder, out, say)


@importers.command("amazon")
def amazon(folder: Folder, out: Out = Path("amazon")) -> None:
    """Amazon reviews (5-core): one session per review, with text vectors of the items."""
    _check_free(out)
    from deploy.data.amazon import import_amazon

    import_amazon(folder, out, say)


def _check_free(out: Path) -> None:
    """Raises ValueError where something but an empty folder has the log's name: before it is made, which takes minutes."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} exists already: choose another --out, or remove it")
