"""Commands for those who keep a run going: doctor, tensorboard."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.console import existing_runs, say

FOLLOW_S = 1.0
Run = Annotated[Path, typer.Argument(help="The run folder.", show_default=False, autocompletion=existing_runs)]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("tensorboard")(tensorboard)


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
    from rich.console import Console

    from deploy.local.event_files import EventFiles
    from deploy.local.run_folder import RunFolder

    run = RunFolder.open(run_folder)
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
