"""A run folder: everything one run of the loop knows, in one place that only its owner can read."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from common.settings import Settings, load_settings, save_settings
from trainer.journal import is_kept_elsewhere

RUNS = Path("runs")
"""Where runs go that nobody named a folder for."""


class RunFolder:
    """Names of what lies in a run folder, and its settings. See `RunFolder.create` and `RunFolder.open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings_file = path / "settings.json"
        self.log = path / "log"
        self.index = path / "index"
        self.reward = path / "reward"
        self.pretrained = path / "pretrained" / "policy.safetensors"
        self.curves = path / "pretrained" / "curves.json"
        self.checkpoints = path / "checkpoints"
        self.evaluation = path / "evaluation"
        self.prepared = path / "prepared"
        self.processes = path / "processes.json"
        self.endpoints = path / "endpoints.json"
        self.replay = path / "replay.json"
        self.stack = path / "stack.json"
        self.phase = path / "phase.json"
        self.report = path / "report"

    @staticmethod
    def create(path: Path, settings: Settings, source: dict[str, str]) -> RunFolder:
        """Make a new run folder (0700) with its settings and the source of its sessions.

        Raises:
            ValueError: there is a run at this place already.
        """
        run = RunFolder(path)
        if run.settings_file.exists():
            raise ValueError(f"{path} holds a run already: choose another --run-folder")
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
        write_json(path / "source.json", source)
        save_settings(settings, run.settings_file)
        return run

    @staticmethod
    def open(path: Path) -> RunFolder:
        """An existing run folder.

        Raises:
            ValueError: it is none.
        """
        run = RunFolder(path)
        if not run.settings_file.is_file():
            raise ValueError(f"{path} is not a run folder: settings.json is missing")
        return run

    @staticmethod
    def newest() -> RunFolder:
        """The run under ``runs/`` that was made last.

        Raises:
            ValueError: there is none.
        """
        made = list(RUNS.glob("*/settings.json"))
        if not made:
            raise ValueError(f"there is no run under {RUNS}/: name its folder, or start one with onerec up")
        return RunFolder(max(made, key=lambda file: file.stat().st_mtime).parent)

    @property
    def settings(self) -> Settings:
        """The run's settings (secrets come from the environment)."""
        return load_settings(self.settings_file)

    @property
    def source(self) -> dict[str, str]:
        """Where the sessions come from: ``kind`` and ``path``."""
        source: dict[str, str] = read_json(self.path / "source.json")
        return source

    def history(self, partition: int) -> Path:
        """The history store of the trainer's rank that owns a partition of the sessions.

        Raises:
            ValueError: there is none yet, or a trainer on another machine uses it.
        """
        ranks = self.settings.trainer.ranks
        own = "" if ranks == 1 else f"-{partition % ranks}"
        path = self.path / f"history{own}.sqlite"
        if not path.exists():
            raise ValueError(
                f"{path.name} does not exist: the trainer of this run has no histories yet, ask again once it runs"
            )
        if is_kept_elsewhere(self.path / f"journal{own}.jsonl"):
            raise ValueError(f"{path} is in use by a trainer on another machine: ask there")
        return path

    def log_file(self, process: str) -> Path:
        """Where a process writes."""
        return self.path / "logs" / f"{process}.log"

    def ready_file(self, process: str) -> Path:
        """What a worker writes once it is ready."""
        return self.path / "ready" / f"{process}.json"


def default_path() -> Path:
    """``runs/`` and the time now."""
    return RUNS / datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")


def read_json(path: Path) -> Any:
    """A JSON file, or {} where there is none."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}


def write_json(path: Path, body: Any) -> None:
    """Replace a JSON file: readers see the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(body, indent=1, allow_nan=False))
    temporary.replace(path)
