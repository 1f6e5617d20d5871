"""Commands that put recorded records on a topic: a session log, an exported file, a topic, repaired dead letters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from deploy.cli.console import say
from deploy.cli.topics import First, Kafka, Last, Partition, Prefix, RunFolder, User, place_of, points

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
    app.add_typer(replays, name="replay")


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
    begin, end = points(first, last)
    from deploy.data.putting import Target, check_target, put
    from deploy.data.recorded import from_file, from_topic
    from deploy.local.prepare import paced

    if Path(source).is_file():
        found = from_file(Path(source), begin, end, partition, user, run_folder)
        place = place_of(run_folder, kafka, prefix)
    elif source.endswith(".gz") or "/" in source:
        raise ValueError(f"{source} does not exist")
    else:
        place = place_of(run_folder, kafka, prefix)
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
    place = place_of(run_folder, kafka, prefix)
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
