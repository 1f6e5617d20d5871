"""Commands that run one part of the loop against the endpoints of a run folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.console import Kafka, RunFolderOption, say

topics = typer.Typer(help="The stream's topics.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(topics, name="topics")
    app.command("train")(train)
    app.command("rollout")(rollout)
    app.command("reward")(reward)
    app.command("tokenizer")(tokenizer)


@topics.command("create")
def create(
    kafka: Kafka = "",
    prefix: Annotated[str, typer.Option("--prefix", help="First part of the topic names.")] = "onerec",
    partitions: Annotated[int, typer.Option("--partitions", min=1, help="Of sessions and rollout-requests.")] = 2,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds.")] = 30.0,
    replayed: Annotated[
        bool, typer.Option("--replayed", help="A log of the past will be replayed: keep it without limit.")
    ] = False,
) -> None:
    """Create all topics, or check those that exist."""
    from deploy.local.preflight import check_kafka

    check_kafka(kafka)
    from common.stream import TOPICS, create_topics, topic_name

    create_topics(kafka, prefix, partitions, timeout_s, replayed=replayed)
    say("topics are in place: " + ", ".join(topic_name(prefix, name) for name in TOPICS))


def train(
    run_folder: Annotated[Path | None, typer.Option("--run-folder", help="The run folder.", show_default=False)] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay", metavar="BUNDLE", help="Train a recorded interval offline, and compare.", show_default=False
        ),
    ] = None,
    replay_journal: Annotated[
        bool, typer.Option("--replay-journal", help="Retrain what was recorded, and compare; the run stays as it is.")
    ] = False,
    first: Annotated[
        int | None,
        typer.Option("--from", help="Checkpoint to retrain from.  [default: the oldest kept]", show_default=False),
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", help="Checkpoint to end at.  [default: the newest]", show_default=False)
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option("--into", help="A new folder for it.  [default: a temporary one, removed]", show_default=False),
    ] = None,
    kafka: Annotated[
        str,
        typer.Option("--kafka", metavar="HOST:PORT", help="Take a bundle's records from topics here.", show_default=False),
    ] = "",
    prefix: Annotated[str, typer.Option("--prefix", help="First part of these topics' names.")] = "onerec",
) -> None:
    """Run the trainer of a run; it resumes from the newest checkpoint.

    With --replay it trains the interval of a bundle (`onerec bundle`) once more, with no broker and nothing else running
    (with --kafka, from topics on which `onerec replay` put the bundle's records);
    with --replay-journal, the steps between two checkpoints of a run whose Kafka still holds their sessions. Both compare
    what comes out with what was recorded: exit code 0 if parameters and optimizer are bit for bit the same, 1 if not.
    """
    retrains = replay is not None or replay_journal
    if not replay_journal and (first is not None or last is not None):
        raise ValueError("--from and --to belong to --replay-journal")
    if not retrains and into is not None:
        raise ValueError("--into belongs to --replay and --replay-journal")
    if kafka and replay is None:
        raise ValueError("--kafka belongs to --replay")
    if (run_folder is None) == (replay is None):
        raise ValueError("train needs either --run-folder or --replay BUNDLE")
    if run_folder is not None and not retrains:
        _become("trainer", run_folder)
    from deploy.local.retraining import replay_and_tell, retrain_and_tell
    from deploy.local.run_folder import RunFolder

    if replay is not None:
        raise typer.Exit(replay_and_tell(replay, into, kafka, prefix))
    assert run_folder is not None
    raise typer.Exit(retrain_and_tell(RunFolder.open(run_folder).path, into, first, last))


def rollout(run_folder: RunFolderOption) -> None:
    """Run the rollout fleet of a run."""
    _become("rollout", run_folder)


def reward(
    run_folder: RunFolderOption,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 0,
) -> None:
    """Run the reward service of a run; its address goes to RUN/ready/reward.json."""
    _become("reward_service", run_folder, "--port", str(port))


def tokenizer(run_folder: RunFolderOption) -> None:
    """Run the online tokenizer of a run: follows new items and publishes index snapshots."""
    _become("tokenizer_job", run_folder)


def _become(worker: str, run_folder: Path, *more: str) -> None:
    """Become the worker, so that signals reach it directly."""
    from deploy.local.run_folder import RunFolder

    command = [sys.executable, "-m", worker, "--run-folder", str(RunFolder.open(run_folder).path), *more]
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted
