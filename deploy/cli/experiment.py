"""The command that runs one of the papers' trends: a module of ``deploy.experiments`` with a function ``run``."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy import experiments
from deploy.cli.bench import claims, figures_table
from deploy.cli.console import check_file, say
from deploy.local.plots import save_plots


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("experiment")(experiment)


def experiment(
    name: Annotated[str, typer.Argument(help="Which one; see --list.", show_default=False)] = "",
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the result here, with a plot.", show_default=False),
    ] = None,
    cache: Annotated[
        Path, typer.Option("--cache", metavar="FOLDER", help="Where finished runs are kept, to go on from.")
    ] = Path("runs/experiments"),
    data: Annotated[Path, typer.Option("--data", help="The data folder, for experiments on real sessions.")] = Path(
        "../shared/data/kuairand_pure"
    ),
    list_all: Annotated[bool, typer.Option("--list", help="Print every experiment's name and claim.")] = False,
) -> None:
    """Reproduce one of the papers' trends on the simulator or on real sessions, with three seeds."""
    known = claims(experiments)
    if list_all:
        Console().print(figures_table(known.items()))
        return
    if name not in known:
        raise ValueError(f"experiment {name!r} does not exist; experiments: {', '.join(known)}")
    check_file("--json", json_file)
    module = importlib.import_module(f"{experiments.__name__}.{name}")
    result = module.run(cache, say, **({"data": data} if "data" in inspect.signature(module.run).parameters else {}))
    if json_file is not None:
        json_file.write_text(result.model_dump_json(indent=1) + "\n")
        save_plots(json_file.parent, {json_file.stem: module.plot}, result)
    rows = [("holds" if claim.holds else "FAILS", claim.claim) for claim in result.claims]
    table = figures_table([("source", result.source), ("commit", result.commit), ("machine", result.machine), *rows])
    table.title, table.title_justify = result.name, "left"
    Console().print(table)
