"""The live state of a run, as all three views show it. None is "unknown", never zero."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel

from deploy.dashboard.figures import Figures
from deploy.dashboard.parts import WRONG, Part
from deploy.local.letters import Letter

Stage = Literal["preparing", "streaming", "judging", "finished", "interrupted", "failed", "killed"]
OVER: tuple[Stage, ...] = ("finished", "interrupted", "failed", "killed")
PARITY_BOUND = 1e-3
"""What is promised of mean |ratio - 1|."""
STALLED_S = 60.0
"""So long without a step, with sessions waiting, is a trainer that hangs."""
LATE_CHECKPOINTS = 2
"""So many times ``sync.every`` steps without a checkpoint are too many."""


class CheckpointState(BaseModel):
    """The newest committed checkpoint."""

    step: int
    age_s: float
    steps_behind: int | None
    """Steps made since."""


class Letters(BaseModel):
    """Dead letters: how many, and the newest, last one last."""

    count: int | None = None
    newest: list[Letter] = []


class LoopState(BaseModel):
    """One look at a run."""

    run: str
    taken_ms: int
    stage: Stage
    phase: str
    """What `onerec up` says that it does; empty where it did not start the run."""
    phase_s: float | None
    reason: str = ""
    """Why the run failed."""
    parts: list[Part]
    figures: Figures
    lag: dict[str, int | None]
    """Records not yet read: sessions (by trainer, learner, recommend), requests, items."""
    rates: dict[str, float | None]
    """Per second, by the arrow of the picture that they belong to."""
    checkpoint: CheckpointState | None
    published_index: int | None
    """Newest item index on disk."""
    reward_model: int | None
    """Newest version of the preference model that the learner committed."""
    recommend_version: int | None
    """Parameter version of the recommend endpoint."""
    letters: Letters
    staleness_bound: int
    sync_every: int

    @property
    def over(self) -> bool:
        """Whether the run has ended, in whatever way."""
        return self.stage in OVER

    def problems(self) -> list[str]:
        """What is wrong, one line each; none if all is well."""
        found = [f"{part.name} is {part.state}" for part in self.parts if part.state in WRONG]
        if self.over and self.stage != "finished":
            found.append(f"the run {self.ending()}" + (f": {self.reason}" if self.reason else ""))
        figures = self.figures
        if self.stage == "streaming" and figures.step_ms is not None and self.lag.get("sessions"):
            idle_s = (self.taken_ms - figures.step_ms) / 1000
            if idle_s > STALLED_S:
                found.append(f"no step for {idle_s:.0f} s, with {self.lag['sessions']:,} sessions waiting")
        if figures.loss is not None and not math.isfinite(figures.loss):
            found.append(f"the loss is {figures.loss}")
        if figures.staleness is not None and figures.staleness > self.staleness_bound:
            found.append(f"groups are {figures.staleness:.1f} versions old, sync.max_lag is {self.staleness_bound}")
        if figures.parity is not None and figures.parity > PARITY_BOUND:
            found.append(f"mean |ratio - 1| is {figures.parity:.1e}, above {PARITY_BOUND:g}")
        behind = self.checkpoint.steps_behind if self.checkpoint else figures.step
        if behind is not None and behind > LATE_CHECKPOINTS * self.sync_every:
            found.append(f"{behind:,} steps since the last checkpoint, sync.every is {self.sync_every}")
        return found

    def notes(self) -> list[str]:
        """What to know that is not wrong by itself: restarts, dropped groups."""
        found = [f"{part.name} was restarted {part.restarts}x" for part in self.parts if part.restarts]
        if self.figures.dropped:
            found.append("groups dropped: " + ", ".join(f"{n} {reason}" for reason, n in self.figures.dropped.items()))
        return found

    def ending(self) -> str:
        """How the run ended or where it is, to go on from "the run"."""
        told = {"finished": "has finished", "interrupted": "was interrupted", "failed": "has failed", "killed": "was killed"}
        return told.get(self.stage, f"is {self.stage}") + (
            f" while {self.phase}" if self.stage in OVER[1:] and self.phase else ""
        )
