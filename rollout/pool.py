"""The fleet's Ray actors: each starting, idle, or busy with one batch; a lost one comes back by itself."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError

from common.metrics import ROLLOUT_ACTOR_RESTARTS
from common.process_log import start_log
from rollout.actor import FIRST_VERSION_S, Answer, RolloutWorker

START_S = FIRST_VERSION_S + 60.0
RETRY_S = 0.5
"""Pause before an actor that could not start is tried again."""
Work = TypeVar("Work")
log = logging.getLogger(__name__)


class RolloutProcess(RolloutWorker):
    """A worker in a process of its own, with a log of its own."""

    def __init__(self, name: str, run_folder: str) -> None:
        start_log(name, Path(run_folder))
        super().__init__(name, run_folder)


RolloutActor = ray.remote(RolloutProcess)


@dataclass(slots=True)
class Slot(Generic[Work]):
    """One actor's place. ``ref`` is the call in flight: its start while ``batch`` is empty, else that batch."""

    name: str
    handle: Any = None
    ref: Any = None
    batch: list[Work] = field(default_factory=list)
    deadline: float = 0.0
    retry_at: float = 0.0
    handed_at: float = 0.0
    version: int = -1
    idle: bool = False


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Work]):
    """How a batch ended: with an answer, or with the reason why it was lost."""

    actor: str
    batch: list[Work]
    answer: Answer | None
    reason: str = ""


class ActorPool(Generic[Work]):
    """Starts ``count`` actors and keeps at most one batch in flight on each.

    Ray restarts an actor whose process died; one whose constructor failed is made anew. No call is retried here:
    a lost batch is reported, and the caller counts its attempts.
    """

    def __init__(self, count: int, cpus: float, run_folder: str, timeout_s: float, gpus: float = 0.0) -> None:
        self._room = {"num_cpus": cpus, "num_gpus": gpus}
        self._run_folder = run_folder
        self._timeout_s = timeout_s
        self._slots: list[Slot[Work]] = [Slot(f"rollout-{number}") for number in range(count)]
        self.last_error = ""
        for slot in self._slots:
            self._start(slot)

    @property
    def idle(self) -> int:
        """Actors that could take a batch now."""
        return sum(slot.idle for slot in self._slots)

    @property
    def busy(self) -> int:
        """Batches in flight."""
        return sum(bool(slot.batch) for slot in self._slots)

    @property
    def versions(self) -> dict[str, int]:
        """Parameter version last seen at each actor; -1 before the first."""
        return {slot.name: slot.version for slot in self._slots}

    def hand(self, batch: list[Work], requests: list[Any]) -> None:
        """Give the actor that is idle longest (there must be one) a batch: ``requests`` travel, ``batch`` comes back."""
        slot = min((slot for slot in self._slots if slot.idle), key=lambda slot: slot.handed_at)
        slot.idle = False
        slot.batch = batch
        slot.handed_at = time.monotonic()
        slot.deadline = slot.handed_at + self._timeout_s
        slot.ref = slot.handle.handle.remote(requests)

    def collect(self, wait_s: float) -> list[Outcome[Work]]:
        """Batches that ended, waiting up to ``wait_s`` for one; revives lost actors on the way."""
        self._revive()
        refs = [slot.ref for slot in self._slots if slot.ref is not None]
        if not refs:
            time.sleep(wait_s)
            return []
        ray.wait(refs, num_returns=1, timeout=wait_s)
        done = set(ray.wait(refs, num_returns=len(refs), timeout=0)[0])
        outcomes = [self._finish(slot) for slot in self._slots if slot.ref in done]
        late = [slot for slot in self._slots if slot.ref is not None and time.monotonic() > slot.deadline]
        outcomes += [self._overdue(slot) for slot in late]
        return [outcome for outcome in outcomes if outcome.batch]

    def _start(self, slot: Slot[Work]) -> None:
        """Make the actor if there is none, and wait (in the background) until it holds a version."""
        if slot.handle is None:
            options = {**self._room, "max_restarts": -1, "max_task_retries": 0, "name": None}
            slot.handle = RolloutActor.options(**options).remote(slot.name, self._run_folder)
        slot.batch = []
        slot.deadline = time.monotonic() + START_S
        slot.ref = slot.handle.ready.remote()

    def _revive(self) -> None:
        for slot in self._slots:
            if slot.ref is None and not slot.idle and time.monotonic() >= slot.retry_at:
                self._start(slot)

    def _finish(self, slot: Slot[Work]) -> Outcome[Work]:
        """Take the result of the call in flight; it is done."""
        batch, slot.batch = slot.batch, []
        try:
            result = ray.get(slot.ref)
        except RayError as error:
            return self._lost(slot, batch, error)
        slot.ref = None
        slot.idle = True
        answer = result if isinstance(result, Answer) else None
        slot.version = result if answer is None else answer.parameter_version
        return Outcome(slot.name, batch, answer)

    def _lost(self, slot: Slot[Work], batch: list[Work], error: RayError) -> Outcome[Work]:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
        if batch or not isinstance(error, ActorUnavailableError):  # a restarting actor says so until it is back
            log.warning("%s lost a call with %d requests: %s", slot.name, len(batch), reason)
        self.last_error = f"{slot.name}: {reason}"
        slot.ref = None
        slot.idle = bool(batch) and not isinstance(error, RayActorError)  # the method raised; its actor lives
        if not slot.idle:
            ROLLOUT_ACTOR_RESTARTS.inc(bool(batch))
            slot.retry_at = time.monotonic() + RETRY_S
            if not isinstance(error, ActorUnavailableError):
                self._discard(slot)
        return Outcome(slot.name, batch, None, reason)

    def _overdue(self, slot: Slot[Work]) -> Outcome[Work]:
        batch, slot.batch = slot.batch, []
        self.last_error = f"{slot.name}: no answer in time"
        log.warning("%s gave no answer in time; it is ended and made anew", slot.name)
        ROLLOUT_ACTOR_RESTARTS.inc()
        self._discard(slot)
        slot.ref = None
        slot.retry_at = time.monotonic()
        return Outcome(slot.name, batch, None, f"no answer within {self._timeout_s:g} s")

    @staticmethod
    def _discard(slot: Slot[Work]) -> None:
        ray.kill(slot.handle)
        slot.handle = None
