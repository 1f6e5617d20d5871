from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deploy.local.processes import Child, StackError, free_port, spawn, wait_until

PARENT = """
import sys, time
from pathlib import Path
from deploy.local.processes import spawn
child = spawn(["sleep", "60"], Path(sys.argv[1]), None, "sleeper")
print(child.pid, flush=True)
time.sleep(60)
"""


def shell(script: str, tmp_path: Path, env: dict[str, str] | None = None) -> Child:
    return spawn(["sh", "-c", script], tmp_path / "child.log", env, "shell")


def test_kill_9_of_the_parent_kills_the_child(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
    child_ended = psutil.wait_procs([child], timeout=5)[0]
    assert child_ended or child.status() == psutil.STATUS_ZOMBIE


def test_a_child_logs_both_streams_privately_and_sees_the_given_environment(tmp_path: Path) -> None:
    child = shell('echo "out $WORD"; echo err >&2; exit 3', tmp_path, {"WORD": "here"})
    assert child.wait(5.0) == 3
    assert not child.alive
    assert child.terminate(1.0) == 3
    assert child.log_tail() == "out here\nerr"
    assert child.log_path.stat().st_mode & 0o777 == 0o600


def test_a_child_has_its_own_session_so_that_ctrl_c_does_not_reach_it(tmp_path: Path) -> None:
    child = spawn(["sleep", "60"], tmp_path / "log", None, "sleeper")
    wait_until(lambda: os.getsid(child.pid) == child.pid, 5.0, "a session", [child])
    assert child.wait(0.0) is None
    assert child.terminate(5.0) == -signal.SIGTERM


def test_a_child_that_ignores_sigterm_is_killed_with_its_group(tmp_path: Path) -> None:
    child = shell("trap '' TERM; sleep 60 & echo $!; wait; sleep 60", tmp_path)
    wait_until(lambda: bool(child.log_tail()), 5.0, "the grandchild", [child])
    grandchild = psutil.Process(int(child.log_tail()))
    assert child.terminate(0.2) == -signal.SIGKILL
    gone, _ = psutil.wait_procs([grandchild], timeout=5)
    assert gone or grandchild.status() == psutil.STATUS_ZOMBIE


def test_terminate_also_ends_what_an_exited_child_left_behind(tmp_path: Path) -> None:
    child = shell("sleep 60 & echo $!", tmp_path)
    assert child.wait(5.0) == 0
    left = psutil.Process(int(child.log_tail()))
    child.terminate(1.0)
    gone, _ = psutil.wait_procs([left], timeout=5)
    assert gone or left.status() == psutil.STATUS_ZOMBIE
    assert child.terminate(1.0) == 0


def test_waiting_names_the_child_that_died_and_shows_its_log(tmp_path: Path) -> None:
    child = shell("echo the disk is on fire; exit 7", tmp_path)
    with pytest.raises(StackError, match=r"shell ended with status 7 while waiting for readiness[\s\S]*disk is on fire"):
        wait_until(lambda: False, 10.0, "readiness", [child])
    child.terminate(1.0)


def test_waiting_ends_in_time_and_says_for_what(tmp_path: Path) -> None:
    child = shell("sleep 60", tmp_path)
    with pytest.raises(StackError, match=r"gave up waiting for a miracle after 0\.1 s[\s\S]*\(empty\)"):
        wait_until(lambda: False, 0.1, "a miracle", [child])
    child.terminate(1.0)


def test_a_missing_program_is_told_by_the_log(tmp_path: Path) -> None:
    child = spawn(["/no/such/program"], tmp_path / "log", None, "nothing")
    assert child.wait(5.0) == 1
    child.terminate(1.0)
    assert "No such file" in child.log_tail()


def test_free_port_can_be_bound() -> None:
    assert 1024 <= free_port() < 65536
