"""Every command that a page prints is one that there is."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from typing import Any

import pytest
import typer

from deploy.cli.main import app
from tests.docs.printed import NAMES, ROOT, Command, commands

STAND_INS = {
    "N": "1",
    "P": "0",
    "OFFSET+1": "6",
    "STEP": "100",
    "TIME": "2022-05-01T00:00:00Z",
    "OFFSET": "5",
    "HOST:PORT": "127.0.0.1:9092",
}
"""For words in capitals that stand for something other than a path or a name."""

MAKE = shutil.which("make") or "make"


@cache
def idle() -> Any:
    """The command line, whose commands read their arguments and do nothing."""
    whole: Any = typer.main.get_command(app)
    waiting = [whole]
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        command.callback = lambda **_: None
    return whole


def parse(command: Command) -> None:
    """Have the command line read the words; a command named in a sentence may leave out its arguments."""
    words = [STAND_INS.get(word, word) for word in command.words[1:]]
    idle().main(words if command.block or len(words) > 1 else [*words, "--help"], "onerec", standalone_mode=False)


@pytest.mark.parametrize("page", NAMES)
def test_every_onerec_command_is_understood(page: str) -> None:
    for command in commands(page):
        if command.program == "onerec":
            try:
                parse(command)
            except Exception as error:
                raise AssertionError(f"{command}: {error}") from error


@pytest.mark.parametrize("page", NAMES)
def test_every_make_target_is_there(page: str) -> None:
    targets = sorted({command.words[1] for command in commands(page) if command.program == "make"})
    for target in targets:
        found = subprocess.run([MAKE, "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=30)
        assert found.returncode == 0, found.stderr


def test_a_wrong_command_is_found() -> None:
    for words, told in ((("upp",), "upp"), (("up", "--nope"), "--nope"), (("report",), "run_folder")):
        with pytest.raises(Exception, match=told):
            parse(Command(("onerec", *words), block=True))
