"""``python -m tests.faults.dies_at PHASE MODULE ARGUMENTS``: a worker that is killed (-9) as it enters or leaves a phase.

A phase is a function of the worker, ``before`` or ``after`` it, at one of its calls. The worker is the one that is shipped:
nothing in it knows of this.
"""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any

PHASES: dict[str, tuple[str, str, str, int]] = {
    "trainer waits": ("trainer.record_buffer", "RecordBuffer.fill", "before", 8),
    "a step is on record": ("trainer.journal", "Journal.append", "after", 7),
    "a step is done, its requests not sent": ("trainer.loop", "Trainer.request_rollouts", "before", 7),
    "requests are sent, not acknowledged": ("trainer.loop", "Trainer.request_rollouts", "after", 7),
    "a checkpoint is half written": ("trainer.checkpoint", "_write_synced", "after", 6),
    "a checkpoint is written, not in place": ("trainer.checkpoint", "_build", "after", 2),
    "a checkpoint is in place": ("trainer.checkpoint", "commit", "after", 2),
    "chunks are published, no manifest": ("common.parameter_channel.publisher", "Publisher._write", "after", 2),
    "a version is published": ("common.parameter_channel.publisher", "Publisher.publish", "after", 2),
    "fleet waits": ("rollout.fleet", "Fleet._pull", "before", 20),
    "requests are handed out": ("rollout.pool", "ActorPool.hand", "after", 2),
    "groups are made, not produced": ("rollout.fleet", "Fleet._write_statistics", "after", 1),
    "groups are produced, the ledger is not written": ("rollout.ledger", "Ledger.save", "before", 1),
    "the ledger is written": ("rollout.ledger", "Ledger.save", "after", 1),
}
"""Module, function, when, and at which call of it."""
TRAINER = [phase for phase, (module, *_) in PHASES.items() if not module.startswith("rollout")]
FLEET = [phase for phase in PHASES if phase not in TRAINER]


def die_at(phase: str) -> None:
    """From now on the phase kills this process."""
    module, path, when, call = PHASES[phase]
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    setattr(owner, name, _killing(getattr(owner, name), when, call))


def _killing(function: Callable[..., Any], when: str, call: int) -> Callable[..., Any]:
    calls = 0

    def instead(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        returned = function(*arguments, **named)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return returned

    return instead


if __name__ == "__main__":
    die_at(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
