"""Commands for those who keep a run going: doctor, tensorboard."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.console import Data, Kafka, existing_runs, say

FOLLOW_S = 1.0
Run = Annotated[Path, typer.Argument(help="The run folder.", show_default=False, autocompletion=existing_runs)]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("doctor")(doctor)
    app.command("tensorboard")(tensorboard)


def doctor(
    run_folder: Annotated[
        Path | None,
        typer.Option("--run-folder", help="Check this run, too.", show_default=False, autocompletion=existing_runs),
    ] = None,
    data: Data = None,
    kafka: Kafka = "",
    as_json: Annotated[bool, typer.Option("--json", help="The findings as a JSON list.")] = False,
) -> None:
    """Check everything that the loop depends on, and say how to mend what is wrong.

    Looks at packages, environment, memory, disk, limits and devices; at Kafka (--kafka) and Redis (ONEREC_REDIS__URL) where
    they are given; with --run-folder at that run's servers, topics, workers, checkpoints and journal. Every check has a
    bounded time. Exit code 1 if one of them found an error; warnings are advice.
    """
    from deploy.local.run_folder import RunFolder

    run = RunFolder.open(run_folder) if run_folder else None
    from deploy.local.doctor import checks_for, examine, table

    found = examine(checks_for(run, data, kafka))
    sys.stdout.write(json.dumps([asdict(one) for one in found], indent=1) + "\n" if as_json else table(found))
    raise typer.Exit(any(one.state == "error" for one in found))


def tensorboard(
    run_folder: Run,
    into: Annotated[
        Path | None,
        typer.Option("--into", help="Folder of the event files, replaced.  [default: RUN/tensorboard]", show_default=False),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with the run's new steps until Ctrl-C.")] = False,
) -> None:
    """Make TensorBoard event files from a run's statistics: losses, rewards, legality, staleness, norms, speed, versions.

    Look at them with `tensorboard --logdir FOLDER`, which is not part of OneRec.
    """
    from deploy.local.run_folder import RunFolder

    run = RunFolder.open(run_folder)
    from rich.console import Console

    from deploy.local.event_files import EventFiles

    folder = into or run.path / "tensorboard"
    with EventFiles(run.path / "trainer_stats.jsonl", folder) as files:
        with Console(stderr=True).status("reading") as status:
            files.update(lambda step: status.update(f"step {step:,}"))
        say(f"{files.step} steps in {folder}")
        try:
            while follow:
                time.sleep(FOLLOW_S)
                files.update()
        except KeyboardInterrupt:
            say(f"{files.step} steps in {folder}")
            raise typer.Exit(130) from None
