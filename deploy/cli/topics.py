"""Options that say which topics, and which of their records, a command is about."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deploy.data.interval import Point
    from deploy.data.place import Place

RunFolder = Annotated[Path | None, typer.Option("--run-folder", help="The run whose topics are meant.", show_default=False)]
Kafka = Annotated[
    str, typer.Option("--kafka", metavar="HOST:PORT", help="The Kafka whose topics are meant.", show_default=False)
]
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


def points(first: str | None, last: str | None) -> tuple[Point | None, Point | None]:
    """``--from`` and ``--to``, read; ages count back from now.

    Raises:
        ValueError: as `deploy.data.interval.point`.
    """
    from deploy.data.interval import point

    now_ms = time.time_ns() // 1_000_000
    return (
        None if first is None else point("--from", first, now_ms),
        None if last is None else point("--to", last, now_ms),
    )


def place_of(run_folder: Path | None, kafka: str, prefix: str) -> Place:
    """Where the topics are.

    Raises:
        ValueError: as `deploy.data.place.Place.of`.
    """
    from deploy.data.place import Place

    return Place.of(run_folder, kafka, prefix)
