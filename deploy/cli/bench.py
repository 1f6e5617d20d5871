"""The command that runs one benchmark: a module of ``benchmarks`` with a function ``run``, its name written with dashes."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import benchmarks
from deploy.cli.console import check_file, say
from deploy.local.plots import save_plots

if TYPE_CHECKING:
    from benchmarks.harness import BenchResult

    Run = Callable[..., BenchResult]


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("bench")(bench)


def bench(
    name: Annotated[str, typer.Argument(help="Which one; see --list.", show_default=False)] = "",
    data: Annotated[Path, typer.Option("--data", help="The data folder, for benchmarks on a public data set.")] = Path(
        "../shared/data/amazon_beauty"
    ),
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the result to this file, too.", show_default=False)
    ] = None,
    cache: Annotated[
        Path, typer.Option("--cache", metavar="FOLDER", help="Where long benchmarks keep finished parts, to go on from.")
    ] = Path("runs/bench"),
    list_all: Annotated[bool, typer.Option("--list", help="Print every benchmark's name and claim.")] = False,
) -> None:
    """Measure one claim on this machine: ours beside a rival's."""
    known = claims()
    if list_all:
        Console().print(figures_table(known.items()))
        return
    if name not in known:
        raise ValueError(f"benchmark {name!r} does not exist; benchmarks: {', '.join(known) or 'none'}")
    check_file("--json", json_file)
    module = importlib.import_module(f"{benchmarks.__name__}.{name.replace('-', '_')}")
    run: Run = module.run
    result = run(data, say, **({"cache": cache} if "cache" in inspect.signature(run).parameters else {}))
    if json_file is not None:
        json_file.write_text(result.model_dump_json(indent=1) + "\n")
        if hasattr(module, "plot"):
            save_plots(json_file.parent, {json_file.stem: module.plot}, result)
    Console().print(result_table(result))


def claims(package: ModuleType = benchmarks) -> dict[str, str]:
    """Name -> claim (first line of the docstring) of a package's runnable modules, by name; nothing is imported for it."""
    found: dict[str, str] = {}
    for folder in map(Path, package.__path__):
        for module in pkgutil.iter_modules([str(folder)]):
            tree = ast.parse((folder / f"{module.name}.py").read_text())
            if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
                found[module.name.replace("_", "-")] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return dict(sorted(found.items()))


def result_table(result: BenchResult) -> Table:
    """The result's figures, one row each, then what each claim came to."""
    from benchmarks.harness import Claim

    spread = " to ".join(map(_number, result.spread or ()))
    rows = [
        ("ours", f"{_number(result.value)} {result.unit}"),
        ("rival", f"{_number(result.rival)} {result.unit}" if result.rival is not None else "—"),
        ("ratio", _number(result.ratio) + (f" (runs: {spread})" if result.spread else "")),
        ("floor", f"{_number(result.floor.value)} {result.unit}: {result.floor.what}" if result.floor else "—"),
        ("commit", result.commit),
        ("machine", result.machine),
    ]
    told = map(Claim.model_validate, result.details.get("claims", []))
    rows += [("holds" if claim.holds else "FAILS", claim.claim) for claim in told]
    table = figures_table(rows)
    table.title, table.title_justify = result.name, "left"
    return table


def figures_table(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and texts, one row each."""
    table = Table(show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in rows:
        table.add_row(name, escape(text))  # brackets in a text are no markup
    return table


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:,.4g}"
