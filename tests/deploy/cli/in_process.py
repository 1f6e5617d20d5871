"""The command line, run in the test's own process."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from unittest.mock import patch

import pytest

from deploy.cli.main import main


@dataclass(frozen=True)
class Done:
    """What a command left on the terminal, and its exit code."""

    code: int
    out: str
    err: str


def onerec(capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
    """Run ``onerec ARGUMENTS``."""
    capsys.readouterr()
    with patch.object(sys, "argv", ["onerec", *map(str, arguments)]), pytest.raises(SystemExit) as left:
        main()
    told = capsys.readouterr()
    return Done(int(left.value.code or 0), told.out, told.err)


def is_told(capsys: pytest.CaptureFixture[str], *arguments: object, about: str) -> None:
    """A mistake is told in one line on stderr, with exit code 2."""
    done = onerec(capsys, *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done
    assert about in done.err, done
