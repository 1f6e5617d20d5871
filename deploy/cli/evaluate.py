"""The command that judges one policy version of a run offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.console import check_file, say

PROGRESS_S = 10.0


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("evaluate")(evaluate)


def evaluate(
    run_folder: Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)],
    version: Annotated[
        str, typer.Option("--version", metavar="N|latest", help="A kept checkpoint's step; 0 is the pre-trained policy.")
    ] = "latest",
    beam: Annotated[
        int | None,
        typer.Option("--beam", min=1, max=4096, help="Beams of the retrieval.  [default: the run's]", show_default=False),
    ] = None,
    cuts: Annotated[
        str, typer.Option("--k", metavar="K,K,…", help="Recall and NDCG at these.  [default: 5,10,50]", show_default=False)
    ] = "",
    widths: Annotated[
        str,
        typer.Option(
            "--widths",
            metavar="K,K,…",
            help="Legality, Pass@K and mean@K at these beam widths.  [default: 8,64,512]",
            show_default=False,
        ),
    ] = "",
    users: Annotated[
        int | None,
        typer.Option("--users", min=1, help="A seeded sample of this many.  [default: the run's]", show_default=False),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to this file, too.", show_default=False)
    ] = None,
) -> None:
    """Judge a policy version of a run on its test days, with popularity and ItemKNN beside it.

    Next-token loss and accuracy by level; legality of a free beam; Recall and NDCG of a constrained beam by items and
    by semantic IDs; coverage, concentration and cold-start share of the lists; and what the run's preference model
    expects of K generated items (the best: Pass@K, and the mean). Prints tables and leaves evaluation.json and plots
    in RUN_FOLDER/evaluation/VERSION.
    """
    from deploy.local.run_folder import RunFolder

    run = RunFolder.open(run_folder)
    asked = {"--k": _numbers("--k", cuts), "--widths": _numbers("--widths", widths)}
    check_file("--json", json_file)
    from deploy.local.evaluating import Options, evaluate_run
    from deploy.local.prepare import paced

    evaluate_run(run, version, Options(beam, asked["--k"], asked["--widths"], users), json_file, paced(say, PROGRESS_S))


def _numbers(option: str, text: str) -> list[int] | None:
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"{option} must be whole numbers with commas between, got {text!r}")
    return [int(part) for part in parts] or None
