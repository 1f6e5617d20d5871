"""How the training of a run goes, from what its workers write down: `trainer_stats.jsonl` and `rollout_stats.jsonl`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from pydantic import BaseModel

from deploy.dashboard.course import Course, Meter, Points
from deploy.local.run_folder import RunFolder
from deploy.local.statistics import Line, Tail

RECENT = 50
"""Figures are means over so many last steps or groups."""
COURSES = ("loss", "reward", "legality", "staleness")


class Figures(BaseModel):
    """Newest figures; None is what is not known (yet)."""

    step: int | None = None
    step_ms: int | None = None
    """When the last step ended (unix ms)."""
    sessions: int | None = None
    """Records of the sessions topic consumed."""
    kept: int | None = None
    valid: int | None = None
    rejected: int | None = None
    """Sessions that became dead letters."""
    loss: float | None = None
    """Next-token loss of a target, summed over the levels (nats)."""
    requested: int | None = None
    outstanding: int | None = None
    trained: int | None = None
    """Groups."""
    dropped: dict[str, int] = {}
    """Groups by reason."""
    legality: float | None = None
    reward: float | None = None
    staleness: float | None = None
    """Mean, in versions, over the last groups."""
    worst_staleness: int | None = None
    parity: float | None = None
    """Mean |ratio - 1|."""
    version: int | None = None
    """Newest published parameter version."""
    index_version: int | None = None
    """Item index that the trainer has in force."""
    reward_version: str | None = None
    """Preference model of the newest group."""
    actors: dict[str, int] = {}
    """Parameter version of each rollout actor's last batch."""
    rates: dict[str, float | None] = {}
    """Per second: sessions, requests, groups produced, groups settled."""
    courses: dict[str, Points] = {}


class FigureReader:
    """Follows the statistics files of a run; its memory does not grow with the run."""

    def __init__(self, run: RunFolder) -> None:
        self._trainer = Tail(run.path / "trainer_stats.jsonl")
        self._rollout = Tail(run.path / "rollout_stats.jsonl")
        self._steps: deque[Line] = deque(maxlen=RECENT)
        self._groups: deque[Line] = deque(maxlen=RECENT)
        self._settling: list[Line] = []
        """Groups whose step is not told yet; only that has a time."""
        self._actors: dict[str, int] = {}
        self._produced = 0
        self._courses = {name: Course() for name in COURSES}
        self._meters = {name: Meter() for name in ("sessions", "requests", "produced", "settled")}

    def read(self) -> Figures:
        """The figures as they are now."""
        for line in self._trainer.lines():
            self._step(line) if line["kind"] == "step" else self._settling.append(line)
        for line in self._rollout.lines():
            self._batch(line)
        return self._figures()

    def _step(self, line: Line) -> None:
        self._steps.append(line)
        at, counters = line["time_ms"], line["counters"]
        if line["targets"]:
            self._courses["loss"].add(at, sum(line["loss_per_level"]), line["targets"])
        self._meters["sessions"].add(at, counters.get("sessions.consumed", 0))
        self._meters["requests"].add(at, counters.get("requests.sent", 0))
        self._meters["settled"].add(at, sum(_outcomes(line).values()))
        for group in self._settling:
            self._group(group, at)
        self._settling.clear()

    def _group(self, line: Line, at: int) -> None:
        self._groups.append(line)
        for name, key in (("reward", "mean_reward"), ("legality", "legal_share"), ("staleness", "lag")):
            if _held(line, key):
                self._courses[name].add(at, line[key])

    def _batch(self, line: Line) -> None:
        self._actors[line["actor"]] = line["version"]
        self._produced += line["requests"]
        self._meters["produced"].add(line["time_ms"], self._produced)

    def _figures(self) -> Figures:
        now_ms = time.time_ns() // 1_000_000
        rates = {name: meter.per_second(now_ms) for name, meter in self._meters.items()}
        courses = {name: course.points() for name, course in self._courses.items()}
        known = {"actors": dict(self._actors), "rates": rates, "courses": courses}
        if not self._steps:
            return Figures.model_validate(known)
        return Figures.model_validate(known | _of_step(self._steps[-1], self._steps) | _of_groups(self._groups))


def _of_step(last: Line, steps: Iterable[Line]) -> Line:
    counters, outcomes = last["counters"], _outcomes(last)
    targets = sum(step["targets"] for step in steps)
    losses = sum(sum(step["loss_per_level"]) * step["targets"] for step in steps)
    return {
        "step": last["step"],
        "step_ms": last["time_ms"],
        "sessions": counters.get("sessions.consumed", 0),
        "kept": counters.get("sessions.kept", 0),
        "valid": counters.get("sessions.valid", 0),
        "rejected": counters.get("sessions.rejected", 0),
        "loss": losses / targets if targets else None,
        "requested": counters.get("requests.sent", 0),
        "outstanding": last["outstanding"],
        "trained": outcomes.pop("trained", 0),
        "dropped": outcomes,
        "version": last["version"],
        "index_version": last["index_version"],
    }


def _of_groups(groups: deque[Line]) -> Line:
    lags = [group["lag"] for group in groups if _held(group, "lag")]
    return {
        "legality": _mean(groups, "legal_share"),
        "reward": _mean(groups, "mean_reward"),
        "staleness": _mean(groups, "lag"),
        "worst_staleness": max(lags, default=None),
        "parity": _mean(groups, "parity_error"),
        "reward_version": next((g["reward_version"] for g in reversed(groups) if g.get("reward_version")), None),
    }


def _outcomes(step: Line) -> dict[str, int]:
    """Groups settled so far, by outcome."""
    prefix = "groups."
    return {name.removeprefix(prefix): n for name, n in step["counters"].items() if name.startswith(prefix)}


def _held(line: Line, key: str) -> bool:
    return line.get(key) is not None


def _mean(lines: Iterable[Line], key: str) -> float | None:
    values = [line[key] for line in lines if _held(line, key)]
    return sum(values) / len(values) if values else None
