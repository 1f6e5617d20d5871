"""Commands around session logs: simulate, import, replay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.settings import load_settings
from deploy.cli.console import Kafka, Overrides, Profile, say

Out = Annotated[Path, typer.Option("--out", help="Folder of the log to write; must not exist yet.")]
Folder = Annotated[Path, typer.Argument(help="The data set's folder.", show_default=False)]
importers = typer.Typer(help="Turn a public data set into a session log.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("simulate")(simulate)
    app.add_typer(importers, name="import")
    app.command("replay")(replay)


def simulate(out: Out = Path("simulated"), profile: Profile = "demo", overrides: Overrides = []) -> None:  # noqa: B006
    """Write a session log of simulated users whose true rewards are known."""
    settings = load_settings(profile, overrides)
    from deploy.data.simulator import simulate as run

    run(settings, out, say)


@importers.command("kuairand")
def kuairand(folder: Folder, out: Out = Path("kuairand")) -> None:
    """KuaiRand (Kuaishou short video): one session per user and 6-hour window."""
    from deploy.data.kuairand import import_kuairand

    import_kuairand(folder, out, say)


@importers.command("amazon")
def amazon(folder: Folder, out: Out = Path("amazon")) -> None:
    """Amazon reviews (5-core): one session per review, with text vectors of the items."""
    from deploy.data.amazon import import_amazon

    import_amazon(folder, out, say)


def replay(
    log: Annotated[Path, typer.Argument(help="A session log.", show_default=False)],
    run_folder: Annotated[
        Path | None, typer.Option("--run-folder", help="Into this run's topics, its stream days only.", show_default=False)
    ] = None,
    kafka: Kafka = "",
    prefix: Annotated[
        str, typer.Option("--prefix", help="First part of the topic names (without a run folder).")
    ] = "onerec",
    partitions: Annotated[int, typer.Option("--partitions", min=1, help="Of the topic (without a run folder).")] = 2,
    speed: Annotated[
        float, typer.Option("--speed", min=0, help="1 is real time, 3600 an hour a second, 0 no pauses.")
    ] = 0.0,
) -> None:
    """Put a session log on Kafka, each user's sessions in order in one partition."""
    from common.session_log import SessionLog

    session_log = SessionLog.open(log)
    if run_folder is None:
        if not kafka:
            raise ValueError("replay needs --run-folder or --kafka HOST:PORT")
        from deploy.data.replay import replay as run

        run(session_log, kafka, prefix, partitions, speed=speed, on_progress=say)
        return
    _replay_into_run(session_log.path, run_folder, speed)


def _replay_into_run(log: Path, run_folder: Path, speed: float) -> None:
    from common.session_log import SessionLog
    from deploy.data.replay import replay as run
    from deploy.local.run_folder import RunFolder, read_json

    folder = RunFolder.open(run_folder)
    endpoints = read_json(folder.endpoints)
    if not endpoints:
        raise ValueError(f"{run_folder} is not a started run: endpoints.json is missing")
    split, stream = folder.settings.split, folder.settings.stream
    run(
        SessionLog.open(log),
        endpoints["kafka"],
        endpoints["prefix"],
        stream.partitions,
        first_day=split.warm_days,
        last_day=split.warm_days + split.stream_days - 1,
        speed=speed,
        run_folder=run_folder,
        on_progress=say,
        timeout_s=stream.timeout_s,
    )
