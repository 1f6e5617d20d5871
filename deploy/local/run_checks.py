"""Checks of what lies in a run folder: who may read it, and whether what was committed is whole."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import time
from functools import cached_property

import torch

from common.item_index import latest_index
from common.item_index.snapshot import verify_snapshot
from common.session_log import SessionLog
from common.settings import Settings
from deploy.local.checks import Check, Skip, State, Trouble
from deploy.local.run_folder import RunFolder
from reward_service.artefact import load_artefact
from trainer.checkpoint import CheckpointError, RunState, committed, load
from trainer.journal import entries_after

CHECKPOINTS = 10
"""So many more should fit on the disk."""
FUTURE_S = 60.0


class RunChecks:
    """Checks of one run folder."""

    def __init__(self, run: RunFolder, settings: Settings) -> None:
        self.run, self.settings = run, settings

    def checks(self) -> list[Check]:
        """In the order in which one needs the other."""
        return [
            Check("run folder", self.folder),
            Check("session log", self.log, self._prepare("log")),
            Check("item index", self.index, self._prepare("tokenize")),
            Check("preference model", self.preference_model, self._prepare("reward")),
            Check("checkpoints", self.checkpoints),
            Check("journal", self.journal, "restore it from a backup together with its checkpoints"),
            Check("same machine", self.machine),
            Check("clock", self.clock),
            Check("room for checkpoints", self.room),
        ]

    def folder(self) -> str:
        """Ours to write, and nobody else's to read."""
        path = self.run.path
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise Trouble(f"{path} cannot be written", "run as its owner, or mount the volume writable")
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise Trouble(f"mode {mode:04o}", f"chmod 700 {path}: it holds users' histories", "warning")
        return f"{path}, mode {mode:04o}"

    def log(self) -> str:
        """A session log with the warm days."""
        SessionLog.open(self.run.log)
        return str(self.run.log)

    def index(self) -> str:
        """The newest item index is whole."""
        newest = latest_index(self.run.index)
        verify_snapshot(newest)
        return f"snapshot {newest.name} is whole"

    def preference_model(self) -> str:
        """The newest preference model is whole."""
        return f"version {load_artefact(self.run.reward).card.version} is whole"

    def checkpoints(self) -> str:
        """Every kept checkpoint is whole; the trainer can do with one."""
        steps = self._steps()
        damaged = {step: told for step in steps if (told := self._damage(step))}
        if damaged:
            state: State = "error" if len(damaged) == len(steps) else "warning"
            remedy = (
                "the trainer takes the newest whole one" if state == "warning" else "restore RUN/checkpoints from a backup"
            )
            raise Trouble("; ".join(damaged.values()), remedy, state)
        return f"steps {', '.join(map(str, steps))} are whole"

    def journal(self) -> str:
        """The steps behind the newest checkpoint can be repeated, by every rank."""
        step = self._steps()[-1]
        behind = [len(entries_after(path, step)) for path in sorted(self.run.path.glob("journal*.jsonl"))]
        return f"{', '.join(map(str, behind)) or 'no'} steps behind checkpoint {step} are on record"

    def machine(self) -> str:
        """The machine and the torch build that the run was trained with: others end bit-identity, and nothing else."""
        was = self._state.identity
        trained = f"torch {was.torch} on {was.machine}"
        here = f"torch {torch.__version__} on {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        if trained != here:
            remedy = "use the same where parameters must stay bit-identical"
            raise Trouble(f"trained with {trained}, here it is {here}", remedy, "warning")
        return f"{here}, as in training"

    def clock(self) -> str:
        """Nothing that was written is from the future."""
        newest = max(path.stat().st_mtime for path in self.run.path.iterdir())
        ahead = newest - time.time()
        if ahead > FUTURE_S:
            raise Trouble(f"the newest file is {ahead:.0f} s in the future", "let NTP set the clock", "warning")
        return time.strftime("%Y-%m-%d %H:%M:%S %z")

    def room(self) -> str:
        """The disk takes more checkpoints."""
        newest = self.run.checkpoints / f"{self._steps()[-1]:08d}"
        size = sum(file.stat().st_size for file in newest.iterdir())
        free = shutil.disk_usage(self.run.path).free
        if free < CHECKPOINTS * size:
            raise Trouble(f"{free // size} more fit", f"make room at {self.run.path}: see docs/runbooks.md#diskfillingup")
        return f"{free // size:,} more of {size / 2**20:.1f} MiB fit"

    def _prepare(self, step: str) -> str:
        return f"before the first start `onerec prepare {step} --run-folder {self.run.path}`, later a backup"

    @cached_property
    def _state(self) -> RunState:
        return load(self.run.checkpoints, self._steps()[-1]).state

    def _steps(self) -> list[int]:
        steps = committed(self.run.checkpoints)
        if not steps:
            raise Skip("nothing was committed yet")
        return steps

    def _damage(self, step: int) -> str:
        try:
            load(self.run.checkpoints, step)
        except CheckpointError as error:
            return str(error)
        return ""
