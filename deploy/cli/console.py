"""What the commands share: options and what the shell completes for them, and mistakes told in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

PROFILES = Path(__file__).parents[1] / "profiles"


def existing_runs(incomplete: str) -> list[str]:
    """Run folders below what was typed, or below ``runs/``: for the shell's completion."""
    typed = incomplete or "runs/"
    parent = Path(typed) if typed.endswith("/") else Path(typed).parent
    found = (str(settings.parent) for settings in sorted(parent.glob("*/settings.json")))
    return [run for run in found if run.startswith(incomplete)]


def shipped_profiles(incomplete: str) -> list[str]:
    """Names of shipped profiles: for the shell's completion."""
    return [path.stem for path in sorted(PROFILES.glob("*.toml")) if path.stem.startswith(incomplete)]


Profile = Annotated[
    str,
    typer.Option(
        "--profile",
        help="A shipped profile (demo, kuairand, amazon) or a .toml file.",
        show_default=False,
        autocompletion=shipped_profiles,
    ),
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
RunFolderOption = Annotated[
    Path, typer.Option("--run-folder", help="The run folder.", show_default=False, autocompletion=existing_runs)
]
Kafka = Annotated[
    str, typer.Option("--kafka", metavar="HOST:PORT", help="Use this Kafka instead of an embedded one.", show_default=False)
]
USAGE = 2


def check_file(option: str, file: Path | None) -> None:
    """What comes at the end of long work can be written there, in a folder that is made if need be.

    Raises:
        ValueError: a folder has that name. OSError: its folder cannot be made.
    """
    if file is None:
        return
    if file.is_dir():
        raise ValueError(f"{option} must be a file, got the folder {file}")
    file.parent.mkdir(parents=True, exist_ok=True)


def say(line: str) -> None:
    """One line of progress."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def fail(error: BaseException) -> int:
    """Tell a person what is wrong; the exit code for it."""
    text = str(error).strip() or type(error).__name__
    sys.stderr.write(f"onerec: {text}\n")
    return USAGE
