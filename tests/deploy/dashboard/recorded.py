"""A run as it lies on disk, made in a second: an untrained policy, two checkpoints, and what its workers wrote down."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from common.history import HistoryStore
from common.session_log import SessionLog
from common.sessions import load_initial_histories
from deploy.local.run_folder import RunFolder, write_json
from tests.deploy.local.tiny_evaluation import make_run

STEPS = 9
EVERY_MS = 2000


def record_run(path: Path) -> RunFolder:
    """Nine steps of four sessions, two seconds apart, each with one group; checkpoints of steps 5 and 9."""
    run = make_run(path)
    ended_ms = time.time_ns() // 1_000_000
    with closing(HistoryStore(path / "history.sqlite")) as history:
        load_initial_histories(SessionLog.open(run.log), history, 1)
    lines: list[dict[str, Any]] = []
    for step in range(1, STEPS + 1):
        lines += [group_line(step), step_line(step, ended_ms - EVERY_MS * (STEPS - step))]
    write_lines(run, "trainer_stats.jsonl", lines)
    batches = [{"time_ms": ended_ms - EVERY_MS * (STEPS - k), "actor": f"rollout-{k % 2}"} for k in range(STEPS)]
    write_lines(run, "rollout_stats.jsonl", [batch | {"version": 5, "requests": 1} for batch in batches])
    letter = {"topic": "p.sessions", "partition": 1, "offset": 7, "reason": "user_id: <b>missing</b>", "length": 12}
    write_json(run.path / "dead_letters.json", {"count": 1, "letters": [letter]})
    return run


def step_line(step: int, time_ms: int, **more: Any) -> dict[str, Any]:
    counters = {"sessions.consumed": 4 * step, "sessions.valid": 4 * step - 1, "sessions.kept": 2 * step}
    counters |= {"sessions.rejected": 1, "requests.sent": step + 1, "groups.trained": step - 1, "groups.stale": 1}
    line = {"kind": "step", "step": step, "time_ms": time_ms, "version": 5, "index_version": 1, "outstanding": 1}
    return line | {"targets": 10, "loss_per_level": [3.0, 2.0 - step / 10], "counters": counters} | more


def group_line(step: int, **more: Any) -> dict[str, Any]:
    line = {"kind": "group", "step": step, "outcome": "trained", "lag": step % 2, "reward_version": "000001-abc"}
    return line | {"mean_reward": 0.5, "legal_share": 0.25, "parity_error": 1e-7} | more


def write_lines(run: RunFolder, name: str, lines: list[dict[str, Any]]) -> None:
    """Append to a statistics file of the run."""
    with (run.path / name).open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def note(run: RunFolder, **told: Any) -> None:
    """The run's phase."""
    write_json(run.phase, {"name": "streaming", "pid": 1, "since_ms": 0, "ended": "", "reason": ""} | told)
