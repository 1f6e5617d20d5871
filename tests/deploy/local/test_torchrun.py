"""The trainer under torchrun, as `onerec up` starts it with several ranks."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from deploy.local.processes import Child, spawn, wait_until
from deploy.local.torchrun import ENVIRONMENT, on_ranks
from tests.trainer.tiny_run import TinyRun, stream_sessions
from trainer.checkpoint import load_latest

TELL = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1], os.environ['RANK']).touch(); time.sleep(60)"


def ranks_of(child: Child) -> list[psutil.Process]:
    return psutil.Process(child.pid).children(recursive=True)


def end(child: Child) -> None:
    child.process.kill()
    child.process.wait()


def test_one_rank_is_the_program_itself() -> None:
    assert on_ranks(["python", "-m", "trainer"], 1) == ["python", "-m", "trainer"]


def test_ranks_die_with_torchrun_also_when_it_is_killed(tmp_path: Path) -> None:
    command = on_ranks([sys.executable, "-c", TELL, str(tmp_path)], 2)
    child = spawn(command, tmp_path / "log", ENVIRONMENT | {"OMP_NUM_THREADS": "1"}, "ranks")
    try:
        wait_until((tmp_path / "1").exists, 60, "rank 1", [child])
        wait_until((tmp_path / "0").exists, 60, "rank 0", [child])
        ranks = ranks_of(child)
        assert len(ranks) == 2
        os.kill(child.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(ranks, 10)
        assert not alive
    finally:
        end(child)


@pytest.mark.slow
def test_a_trainer_on_ranks_stops_together_whoever_is_told_and_goes_on_again(
    tmp_path: Path, kafka: str, redis_url: str
) -> None:
    run = TinyRun.make(tmp_path / "run", kafka, "stream.partitions=2", "trainer.ranks=2", "rl.rate=0")
    sessions = stream_sessions(60)
    environment = ENVIRONMENT | {"OMP_NUM_THREADS": "1", "ONEREC_REDIS__URL": redis_url}
    steps: list[int] = []
    for at, told_to_torchrun in ((0, False), (30, True)):
        run.send(sessions[at : at + 30], end=False)
        command = on_ranks([sys.executable, "-m", "trainer", "--run-folder", str(run.folder)], 2)
        child = spawn(command, tmp_path / "log", environment, "trainer")
        try:
            wait_until(lambda: _recorded(run) > (steps or [0])[-1] + 3, 90, "four steps", [child])
            ranks = ranks_of(child)
            os.kill(child.pid if told_to_torchrun else ranks[1].pid, signal.SIGTERM)
            assert child.wait(40) == int(told_to_torchrun)  # torchrun calls a signal to itself a failure
            assert not psutil.wait_procs(ranks, 5)[1]
        finally:
            end(child)
        checkpoint = load_latest(run.folder / "checkpoints")
        assert checkpoint is not None
        steps.append(checkpoint.state.step)
        assert checkpoint.state.step == _recorded(run)
        assert sum(checkpoint.state.sessions.values()) == 4 * checkpoint.state.step


def _recorded(run: TinyRun) -> int:
    """Steps that rank 1 has on record."""
    path = run.folder / "journal-1.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return max((json.loads(line)["entry"]["step"] for line in lines if line.endswith(b"\n")), default=0)
