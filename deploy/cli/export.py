"""Commands that take recorded records away: a topic's to a file, an interval of training as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.console import RunFolderOption, say
from deploy.cli.topics import First, Kafka, Last, Partition, Prefix, RunFolder, User, place_of, points


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("export")(export)
    app.command("bundle")(bundle)


def export(
    topic: Annotated[
        str, typer.Argument(help="sessions, items, rollout-requests, ..., or a full name.", show_default=False)
    ],
    file: Annotated[Path, typer.Argument(help="The file to write, such as sessions.jsonl.gz.", show_default=False)],
    first: First = None,
    last: Last = None,
    run_folder: RunFolder = None,
    kafka: Kafka = "",
    prefix: Prefix = "onerec",
    user: User = None,
    partition: Partition = None,
) -> None:
    """Write an interval of a topic to a file: whole, or one user's records.

    Every record keeps its partition, offset, time, key and headers. Without --from and --to everything that the topic
    holds now is written. The file is there as a whole or not at all, and knows when it is cut.
    """
    begin, end = points(first, last)
    if file.exists():
        raise ValueError(f"{file} exists already: choose another name, or remove it")
    from deploy.data.recorded import from_topic, to_file
    from deploy.local.prepare import paced

    place = place_of(run_folder, kafka, prefix)
    full = place.topic(topic)
    count = to_file(from_topic(place, full, begin, end, partition, user), file, paced(say))
    say(f"{count:,} records of {full} in {file}")


def bundle(
    path: Annotated[Path, typer.Argument(help="The folder to write; must not exist yet.", show_default=False)],
    run_folder: RunFolderOption,
    first: Annotated[
        int | None,
        typer.Option(
            "--from", metavar="STEP", help="Checkpoint to start at.  [default: the oldest kept]", show_default=False
        ),
    ] = None,
    last: Annotated[
        int | None,
        typer.Option("--to", metavar="STEP", help="Checkpoint to end at.  [default: the newest]", show_default=False),
    ] = None,
) -> None:
    """Record the training between two checkpoints of a run as a folder that `onerec train --replay` trains again.

    It holds the starting checkpoint, the histories as of the start, sessions, groups, journal, index snapshots and settings,
    with checksums, and what machine, torch build, threads and sources made it. The run may go on meanwhile; its Kafka must
    still hold the interval.
    """
    from benchmarks.harness import commit
    from deploy.local.prepare import paced
    from deploy.local.run_folder import RunFolder as Folder
    from trainer.bundle import write_bundle

    written = write_bundle(Folder.open(run_folder).path, path, first, last, commit(), on_progress=paced(say)).manifest
    counts = f"{written.sessions:,} session records and {written.groups:,} group records"
    say(f"steps {written.first} to {written.last} of {written.run} in {path}: {counts}")
