"""Whether what a container is told to run, and the variables that it gets, exist: by the real command lines and settings."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer
from pydantic import BaseModel

from common.access import PREFIX, Access
from common.http_service import run_service
from common.process_log import FORMAT_VARIABLE
from common.settings import Settings
from common.worker import run_worker
from deploy.cli.loop import REPLAYED_VARIABLE
from deploy.cli.main import app
from deploy.local.stack import THREADS_VARIABLE

WORKERS = ("trainer", "tokenizer_job", "reward_service.online")
SERVICES = ("reward_service", "rollout.recommend")
VALUES = {"$(ONEREC_TRAINER__RANKS)": "2", "$(RANK_OF_POD)": "0", "$(PROFILE)": "demo"}
"""What Kubernetes puts in place of variables in commands."""


def check_command(command: list[str]) -> None:
    """Fail unless the program, its subcommands and all its options exist and take these values."""
    words = [_filled(word) for word in command]
    if words[0] == "onerec":
        _check_click(typer.main.get_command(app), words[1:])
    elif words[0] == "ray":
        from ray.scripts.scripts import cli

        _check_click(cli, words[1:])
    elif words[:3] == ["python", "-m", "torch.distributed.run"]:
        from torch.distributed.run import get_args_parser

        inner = get_args_parser().parse_args(words[3:])
        assert inner.module
        check_command(["python", "-m", inner.training_script, *inner.training_script_args])
    elif words[:2] == ["python", "-m"]:
        _check_worker(words[2], words[3:])
    elif words[:2] == ["sh", "-c"]:
        check_shell(" ".join(words[2:]))
    else:
        assert words[0] in {"timeout", "/bin/sh"}, command


def _filled(word: str) -> str:
    for variable, value in VALUES.items():
        word = word.replace(variable, value)
    return word


def check_shell(script: str) -> None:
    """Fail unless the worker that a line of shell becomes exists."""
    worker = re.search(r"exec (python -m .*)", script, re.DOTALL)
    assert worker or "KUBERAY_GEN_RAY_START_CMD" in script, script
    if worker:
        check_command(worker[1].split())


def _check_click(command: Any, words: list[str]) -> None:
    context = command.make_context(command.name, list(words))  # parses, and runs nothing
    if hasattr(command, "resolve_command"):
        _, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        _check_click(inner, rest)


def _check_worker(module: str, options: list[str]) -> None:
    known = worker_help(module)
    for option in options:
        assert f"{option.partition('=')[0]} " in known, f"{module} has no {option}"


def worker_help(module: str) -> str:
    """What ``python -m module --help`` prints."""
    from rollout.__main__ import main

    spec = importlib.util.find_spec(module)
    assert spec
    assert spec.origin
    file = Path(spec.origin)
    source = (file.with_name("__main__.py") if spec.submodule_search_locations else file).read_text()
    if module in WORKERS:
        run: Callable[[], object] = lambda: run_worker(module, "", mock.Mock(), ())  # noqa: E731
        assert "sys.exit(run_worker(" in source
    elif module in SERVICES:
        run = lambda: run_service(module, "", mock.Mock(), ())  # noqa: E731
        assert "sys.exit(run_service(" in source
    else:
        assert module == "rollout", f"no worker is called {module}"
        run = main
    shown = io.StringIO()
    with mock.patch.object(sys, "argv", [module, "--help"]), contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
        run()
    return shown.getvalue()


def check_variable(name: str) -> None:
    """Fail unless a process of ours knows the variable (those of others are let through)."""
    if not name.startswith("ONEREC_") or name in {FORMAT_VARIABLE, REPLAYED_VARIABLE, THREADS_VARIABLE}:
        return
    if name.startswith(PREFIX):
        assert name.removeprefix(PREFIX).removesuffix("_FILE").lower() in Access.model_fields, name
        return
    section: type[BaseModel] = Settings
    *parents, leaf = name.removeprefix("ONEREC_").removesuffix("_FILE").lower().split("__")
    for parent in parents:
        annotation = section.model_fields[parent].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        section = annotation
    assert leaf in section.model_fields, name
