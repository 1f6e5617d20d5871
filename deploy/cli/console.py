"""What the commands share: options, and mistakes told in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

Profile = Annotated[
    str, typer.Option("--profile", help="A shipped profile (demo, kuairand, amazon) or a .toml file.", show_default=False)
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override one setting, e.g. --set rl.rate=0.05 (repeatable).", show_default=False
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="A session log, or a KuaiRand or Amazon folder; without it sessions are simulated.",
        show_default=False,
    ),
]
RunFolderOption = Annotated[Path, typer.Option("--run-folder", help="The run folder.", show_default=False)]
Kafka = Annotated[
    str, typer.Option("--kafka", metavar="HOST:PORT", help="Use this Kafka instead of an embedded one.", show_default=False)
]
USAGE = 2


def say(line: str) -> None:
    """One line of progress."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def fail(error: BaseException) -> int:
    """Tell a person what is wrong; the exit code for it."""
    text = str(error).strip() or type(error).__name__
    sys.stderr.write(f"onerec: {text}\n")
    return USAGE
