"""``onerec init``: a run whose parts are started one by one, by containers or by hand, against servers that are there."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from common.endpoints import Endpoints
from common.settings import Settings
from common.stream import create_topics
from deploy.local.live import View
from deploy.local.prepare import is_done
from deploy.local.run_folder import RunFolder, write_json
from deploy.local.stack import run_lanes
from deploy.local.up import PREPARATION


def init_run(
    folder: Path,
    settings: Settings,
    source: dict[str, str],
    name: str,
    reward: str,
    view: View,
    *,
    replayed: bool = False,
) -> Endpoints:
    """Make a run folder, prepare it, create its topics, and write down where its parts are; that last.

    Started again it goes on with what is missing. A run that is ready stays as it is.

    Args:
        folder: of the run.
        settings: ``stream.bootstrap`` is the Kafka to use.
        source: of its sessions (see `preflight.detect`).
        name: of the run; "" makes one up.
        reward: URL at which the reward service will be.
        view: shows the progress.
        replayed: whether its sessions will be those of a log of the past, see `create_topics`.

    Raises:
        ValueError: the folder holds a run with other settings, another source or other endpoints.
        StackError: a preparation step failed. StreamError: Kafka refused.
    """
    run = RunFolder(folder)
    if run.settings_file.exists():
        _check_same(run, settings, source)
    else:
        run = RunFolder.create(folder, settings, source)
    for phase, lanes in PREPARATION:
        if missing := [steps for lane in lanes if (steps := [step for step in lane if not is_done(run, step)])]:
            view.phase(phase)
            run_lanes(run, missing, view.details)
    given, stream = name, settings.stream
    name = name or f"run-{secrets.token_hex(4)}"
    wanted = Endpoints(run=name, kafka=stream.bootstrap, prefix=f"{stream.prefix}.{name}", reward=reward)
    if run.endpoints.exists():
        wanted = _agreed(run, wanted, ("run", "kafka", "reward") if given else ("kafka", "reward"))
    view.phase("topics")
    create_topics(wanted.kafka, wanted.prefix, stream.partitions, stream.timeout_s, replayed=replayed)
    if not run.endpoints.exists():
        write_json(run.endpoints, wanted.model_dump())
    return wanted


def _check_same(run: RunFolder, settings: Settings, source: dict[str, str]) -> None:
    if run.source != source:
        raise ValueError(f"{run.path} holds a run whose sessions are from {run.source}, not from {source}")
    changed = _first_difference(run.settings.model_dump(mode="json"), settings.model_dump(mode="json"))
    if changed:
        raise ValueError(f"{run.path} holds a run with another {changed}; a run keeps its settings: choose another folder")


def _agreed(run: RunFolder, wanted: Endpoints, fields: tuple[str, ...]) -> Endpoints:
    """The run's endpoints, if these fields are as wanted."""
    there = Endpoints.read(run.path)
    for field in fields:
        old, new = getattr(there, field), getattr(wanted, field)
        if old != new:
            raise ValueError(f"{run.endpoints} says {field} {old}, not {new}: edit it if that has moved")
    return there


def _first_difference(old: dict[str, Any], new: dict[str, Any], path: str = "") -> str:
    """``key.sub, 1 and not 2`` of the first setting that differs; "" if none does."""
    for key, value in new.items():
        at = f"{path}{key}"
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            if found := _first_difference(old[key], value, f"{at}."):
                return found
        elif old.get(key) != value:
            return f"{at}, {old.get(key)!r} and not {value!r}"
    return ""
