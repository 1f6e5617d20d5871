"""Commands around recorded records: export a topic, put records on a topic again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from deploy.cli.console import Kafka, RunFolderOption, say

if TYPE_CHECKING:
    from deploy.data.interval import Point
    from deploy.data.place import Place

RunFolder = Annotated[Path | None, typer.Option("--run-folder", help="The run whose topics are meant.", show_default=False)]
Prefix = Annotated[str, typer.Option("--prefix", help="First part of the topic names (without a run folder).")]
POINT_HELP = "an offset (1200), a time (2026-01-31T12:00:00Z), ms since 1970 (1767225600000ms) or an age (-2h)."
First = Annotated[
    str | None, typer.Option("--from", metavar="TIME|OFFSET", help=f"First record: {POINT_HELP}", show_default=False)
]
Last = Annotated[
    str | None, typer.Option("--to", metavar="TIME|OFFSET", help="First record that is left out.", show_default=False)
]
User = Annotated[int | None, typer.Option("--user", min=0, help="This user's records only.", show_default=False)]
Partition = Annotated[int | None, typer.Option("--partition", min=0, help="This partition only.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be put, and put nothing.")]
DEFAULT = "records"


class _ReplayGroup(TyperGroup):
    """``onerec replay SOURCE`` is short for ``onerec replay records SOURCE``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


replays = typer.Typer(
    cls=_ReplayGroup,
    no_args_is_help=True,
    help="Put recorded records on a topic. `onerec replay SOURCE ...` is short for `onerec replay records SOURCE ...`.",
)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("export")(export)
    app.command("bundle")(bundle)
    app.add_typer(replays, name="replay")


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
    begin, end = _points(first, last)
    if file.exists():
        raise ValueError(f"{file} exists already: choose another name, or remove it")
    from deploy.data.recorded import from_topic, to_file
    from deploy.local.prepare import paced

    place = _place(run_folder, kafka, prefix)
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


@replays.command(DEFAULT)
def records(
    source: Annotated[str, typer.Argument(help="A session log (folder), an exported file, or a topic.", show_default=False)],
    to_topic: Annotated[
        str, typer.Option("--to-topic", help="Where to put the records of a file or a topic.", show_default=False)
    ] = "",
    first: First = None,
    last: Last = None,
    speed: Annotated[
        float, typer.Option("--speed", min=0, help="1 is real time, 3600 an hour a second, 0 no pauses.")
    ] = 0.0,
    dry_run: DryRun = False,
    run_folder: RunFolder = None,
    kafka: Kafka = "",
    prefix: Prefix = "onerec",
    user: User = None,
    partition: Partition = None,
    partitions: Annotated[
        int, typer.Option("--partitions", min=1, help="Of the topic (session log without a run folder).")
    ] = 2,
) -> None:
    """Put a session log, an exported file or a topic's interval on a topic.

    A session log (a folder) goes to the topics sessions and items, each user's sessions in order in one partition; with a
    run folder, its stream days only.

    The records of a file or a topic go to --to-topic with their keys, times and headers, and with the position at which
    they lay first as a header. What the target holds already is not put again, so that the same command goes on where it
    was interrupted.
    """
    if Path(source).is_dir():
        if to_topic or first or last or dry_run or user is not None or partition is not None:
            raise ValueError(
                f"{source} is a session log: --to-topic, --from, --to, --user, --partition and --dry-run are "
                "for exported files and topics"
            )
        _replay_log(Path(source), run_folder, kafka, prefix, partitions, speed)
        return
    if not to_topic:
        raise ValueError("--to-topic must name the topic to put the records on")
    begin, end = _points(first, last)
    from deploy.data.putting import Target, check_target, put
    from deploy.data.recorded import from_file, from_topic
    from deploy.local.prepare import paced

    if Path(source).is_file():
        found = from_file(Path(source), begin, end, partition, user, run_folder)
        place = _place(run_folder, kafka, prefix)
    elif source.endswith(".gz") or "/" in source:
        raise ValueError(f"{source} does not exist")
    else:
        place = _place(run_folder, kafka, prefix)
        found = from_topic(place, place.topic(source), begin, end, partition, user)
    target = Target.open(place, place.topic(to_topic))
    how = check_target(found, target)
    outcome = put(found, target, speed, dry_run, paced(say))
    done = f"{outcome.put.total():,} records of {found.topic} {'would be put' if dry_run else 'put'} on {target.topic}"
    say(f"{done}, {how}; {outcome.there:,} were there already")


@replays.command("dead-letters")
def dead_letters(
    file: Annotated[
        Path | None, typer.Argument(help="Repaired messages, as --write wrote and a person mended them.", show_default=False)
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="FILE", help="Write the letters to a file to be mended.", show_default=False),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Letters whose reason holds this text.", show_default=False)] = "",
    topic: Annotated[str, typer.Option("--topic", help="Letters of messages of this topic.", show_default=False)] = "",
    dry_run: DryRun = False,
    run_folder: RunFolder = None,
    kafka: Kafka = "",
    prefix: Prefix = "onerec",
) -> None:
    """Show the dead letters, or put repaired messages back on the topics they came from.

    --write makes a file with one JSON line a letter: mend each line's "message", and delete the lines that shall stay dead.
    Given that file, the command validates all of it before it puts anything, each message in its user's partition and once
    however often it is run.
    """
    from deploy.data.repairs import put_back, read_letters, read_repairs, write_repairs

    if file is not None and (write or reason or topic):
        raise ValueError("--write, --reason and --topic show letters; they do not go with a file of repaired messages")
    if write is not None and write.exists():
        raise ValueError(f"{write} exists already: choose another name, or remove it")
    place = _place(run_folder, kafka, prefix)
    if file is None:
        letters = read_letters(place, reason, topic)
        for one in letters:
            typer.echo(f"{one.topic}[{one.partition}]@{one.offset}  {one.length:,} bytes  {one.reason}")
        if write is not None:
            write_repairs(letters, write)
        say(f"{len(letters):,} dead letters" + (f" in {write}" if write else ""))
        return
    for name, outcome in put_back(read_repairs(file, place), place, dry_run).items():
        done = f"{outcome.put.total():,} repaired messages {'would be put' if dry_run else 'put'} on {name}"
        say(f"{done}; {outcome.there:,} were there already")


def _points(first: str | None, last: str | None) -> tuple[Point | None, Point | None]:
    import time

    from deploy.data.interval import point

    now_ms = time.time_ns() // 1_000_000
    return (
        None if first is None else point("--from", first, now_ms),
        None if last is None else point("--to", last, now_ms),
    )


def _place(run_folder: Path | None, kafka: str, prefix: str) -> Place:
    from deploy.data.place import Place

    return Place.of(run_folder, kafka, prefix)


def _replay_log(path: Path, run_folder: Path | None, kafka: str, prefix: str, partitions: int, speed: float) -> None:
    """All of a session log, or a run's stream days of it."""
    from common.session_log import SessionLog

    log = SessionLog.open(path)
    if run_folder is not None:
        _replay_into_run(log.path, run_folder, speed)
        return
    if not kafka:
        raise ValueError("replay needs --run-folder or --kafka HOST:PORT")
    from deploy.data.replay import replay

    replay(log, kafka, prefix, partitions, speed=speed, on_progress=say)


def _replay_into_run(log: Path, run_folder: Path, speed: float) -> None:
    from common.session_log import SessionLog
    from deploy.data.replay import replay
    from deploy.local.run_folder import RunFolder as Folder
    from deploy.local.run_folder import read_json

    folder = Folder.open(run_folder)
    endpoints = read_json(folder.endpoints)
    if not endpoints:
        raise ValueError(f"{run_folder} is not a started run: endpoints.json is missing")
    split, stream = folder.settings.split, folder.settings.stream
    replay(
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
