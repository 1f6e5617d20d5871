"""The command that makes a tokenizer and an item index of a data set, apart from any run."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from common.settings import load_settings
from deploy.cli.console import Data, Overrides, Profile, say


class Method(StrEnum):
    """Quantizers."""

    rq_kmeans = "rq_kmeans"
    balanced = "balanced"
    rq_vae = "rq_vae"


class Vectors(StrEnum):
    """What is quantised."""

    joined = "joined"
    aligned = "aligned"


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("tokenize")(tokenize)


def tokenize(
    data: Data = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for log, tokenizer, index and report.")] = Path("tokenized"),
    method: Annotated[
        Method | None, typer.Option("--method", help="The quantizer.  [default: the profile's]", show_default=False)
    ] = None,
    vectors: Annotated[
        Vectors | None,
        typer.Option(
            "--vectors",
            help="joined: behaviour beside content; aligned: content aligned with behaviour by a QFormer.  "
            "[default: the profile's]",
            show_default=False,
        ),
    ] = None,
    train_days: Annotated[
        int | None,
        typer.Option("--train-days", min=0, help="Learn from these first days only.  [default: all]", show_default=False),
    ] = None,
    held_out: Annotated[
        int, typer.Option("--held-out", min=0, help="Leave out each user's last events, this many (leave-one-out tests: 2).")
    ] = 0,
    profile: Profile = "",
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Turn items into semantic IDs: vectors, codebooks, item index, and a report of their quality.

    Leaves in OUT: log/, tokenizer/ (with report.json and report.html) and index/000001/. Started again after an
    interruption it goes on: a finished import is kept, and an alignment continues from its last saved step.
    """
    from deploy.local.preflight import default_profile, detect

    if (out / "index").exists():
        raise ValueError(f"{out} holds an index already: choose another --out")
    source = detect(data)
    chosen = {"method": method, "vectors": vectors}
    changes = [f"tokenizer.{name}={value.value}" for name, value in chosen.items() if value is not None]
    settings = load_settings(profile or default_profile(source), [*changes, *overrides])
    import torch
    from rich.console import Console

    from common.session_log import SessionLog
    from deploy.data.sources import make_log
    from tokenizer_job.job import build_index
    from tokenizer_job.quality.table import report_table

    torch.set_num_threads(os.cpu_count() or 1)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "log").exists():
        make_log(source, settings, out / "log", say)
    result = build_index(SessionLog.open(out / "log"), settings, out, train_days, say, held_out)
    Console().print(report_table(result.report))
    say(f"{len(result.index):,} items in {out / 'index'}; report {out / 'tokenizer' / 'report.html'}")
