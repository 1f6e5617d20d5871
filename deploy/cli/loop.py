"""Commands of the whole loop: up, init, prepare, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.settings import load_settings
from deploy.cli.console import Data, Kafka, Overrides, Profile, RunFolderOption, check_file, say

REPLAYED_VARIABLE = "ONEREC_REPLAYED"

ReportFile = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Write the report to this JSON file, too.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("up")(up)
    app.command("init")(init)
    app.command("prepare")(prepare)
    app.command("report")(report)


def up(
    data: Data = None,
    profile: Profile = "",
    overrides: Overrides = [],  # noqa: B006
    report_file: ReportFile = None,
    run_folder: Annotated[
        Path | None, typer.Option("--run-folder", help="A new folder for the run.  [default: runs/TIME]", show_default=False)
    ] = None,
    kafka: Kafka = "",
    speed: Annotated[
        float, typer.Option("--speed", min=0, help="Replay: 1 is real time, 3600 an hour a second, 0 no pauses.")
    ] = 0.0,
) -> None:
    """Run the whole loop on this machine, and end with a report.

    Prepares (session log, semantic IDs, preference model, pre-training), starts Kafka, Redis, the reward service, the
    trainer and the rollout fleet, replays the stream days, judges the policy before and after on the test days, prints
    and writes the report, and leaves nothing running. Meanwhile a web page shows the loop, at an address that is printed.
    An existing Redis is given as ONEREC_REDIS__URL.
    """
    from deploy.local.preflight import check_kafka, check_redis, default_profile, detect

    source = detect(data)
    changes = [*overrides, f"stream.bootstrap='{kafka}'"] if kafka else overrides
    settings = load_settings(profile or default_profile(source), changes)
    if settings.stream.bootstrap:
        check_kafka(settings.stream.bootstrap)
    redis = settings.redis.url.get_secret_value()
    if redis:
        check_redis(redis)
    check_file("--report", report_file)
    from deploy.local.up import run_loop

    raise typer.Exit(run_loop(source, settings, run_folder, report_file, speed))


def init(
    run_folder: Annotated[
        Path, typer.Option("--run-folder", help="The folder to make or to go on with.", show_default=False)
    ],
    reward: Annotated[
        str, typer.Option("--reward", metavar="URL", help="Where the reward service will listen.", show_default=False)
    ],
    data: Data = None,
    profile: Profile = "",
    overrides: Overrides = [],  # noqa: B006
    kafka: Kafka = "",
    name: Annotated[
        str, typer.Option("--name", help="Of the run, and of its topics.  [default: made up]", show_default=False)
    ] = "",
    replayed: Annotated[
        bool,
        typer.Option(
            "--replayed", envvar=REPLAYED_VARIABLE, help="A log of the past will be replayed: topics keep it without limit."
        ),
    ] = False,
) -> None:
    """Make a run whose parts are started one by one: by containers, by Kubernetes, or by hand.

    Makes and prepares the run folder (session log, semantic IDs, preference model, pre-training), creates the run's topics
    on an existing Kafka (--kafka, or ONEREC_STREAM__BOOTSTRAP), and writes endpoints.json, for which the parts wait.
    Started again it goes on where it was; a run that is ready stays as it is.
    """
    from deploy.local.preflight import check_kafka, check_name, check_url, default_profile, detect

    source = detect(data)
    changes = [*overrides, f"stream.bootstrap='{kafka}'"] if kafka else overrides
    settings = load_settings(profile or default_profile(source), changes)
    check_url("--reward", reward)
    check_name("--name", name)
    check_kafka(settings.stream.bootstrap)
    from rich.console import Console

    from deploy.local.init import init_run
    from deploy.local.live import View

    with View(Console(stderr=True)) as view:
        endpoints = init_run(run_folder.resolve(), settings, source, name, reward, view, replayed=replayed)
    say(f"{run_folder} is run {endpoints.run}, with topics {endpoints.prefix}.* at {endpoints.kafka}")


def prepare(
    step: Annotated[str, typer.Argument(help="log, tokenize, reward, pretrain, baselines, before, after or compare.")],
    run_folder: RunFolderOption,
) -> None:
    """Do one step of a run's preparation or evaluation, unless it is done already."""
    from deploy.local.prepare import STEPS, run_step
    from deploy.local.run_folder import RunFolder

    if step not in STEPS:
        raise ValueError(f"step must be one of {', '.join(STEPS)}, got {step!r}")
    run_step(RunFolder.open(run_folder), step, say)


def report(run_folder: RunFolderOption, report_file: ReportFile = None) -> None:
    """Make the report of a run again from its folder: JSON, table and plots."""
    from deploy.local.run_folder import RunFolder
    from deploy.local.up import finish

    run = RunFolder.open(run_folder)
    check_file("--report", report_file)
    finish(run, report_file)
