"""What `onerec up` is doing in a run folder, and how it ended: written down for whoever looks at the run meanwhile."""

from __future__ import annotations

import os
import time
from typing import Literal

from pydantic import BaseModel, ValidationError

from deploy.local.run_folder import RunFolder, read_json, write_json

STREAMING = "streaming"
End = Literal["", "finished", "interrupted", "failed"]


class Phase(BaseModel):
    """A phase of `onerec up`."""

    name: str
    pid: int
    """Of `onerec up`: one that is dead without an end was killed."""
    since_ms: int
    ended: End = ""
    reason: str = ""
    """Why it failed, in one line."""


def note_phase(run: RunFolder, name: str) -> None:
    """The run is in this phase from now on."""
    phase = Phase(name=name, pid=os.getpid(), since_ms=time.time_ns() // 1_000_000)
    write_json(run.phase, phase.model_dump())


def note_end(run: RunFolder, ended: End, reason: str = "") -> None:
    """The run has ended in the phase that it is in."""
    phase = read_phase(run)
    if phase is not None:
        write_json(run.phase, phase.model_copy(update={"ended": ended, "reason": reason}).model_dump())


def read_phase(run: RunFolder) -> Phase | None:
    """The newest phase; None where the run was not made by `onerec up`."""
    try:
        return Phase.model_validate(read_json(run.phase))
    except ValidationError:
        return None
