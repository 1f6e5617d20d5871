from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.run_folder import RunFolder
from tests.deploy.cli.test_cli import is_told, onerec
from tests.deploy.dashboard.recorded import note, record_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = record_run(tmp_path_factory.mktemp("status") / "runs" / "one")
    note(run, ended="finished")
    return run


def test_a_finished_run_is_well_and_found_as_the_newest(finished: RunFolder) -> None:
    done = onerec(finished.path.parents[1], "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("one has finished · all is well")


def test_json_is_the_whole_state(finished: RunFolder, tmp_path: Path) -> None:
    done = onerec(tmp_path, "status", str(finished.path), "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["stage"], told["problems"]) == (0, "finished", [])
    assert told["figures"]["sessions"] == 36
    assert told["lag"]["sessions"] is None


def test_a_run_that_was_killed_is_wrong(finished: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(finished.path, tmp_path / "run")
    note(RunFolder.open(tmp_path / "run"), pid=2**22 + 1)
    done = onerec(tmp_path, "status", "run")
    assert done.returncode == 1
    assert "the run was killed while streaming" in done.stdout
    assert onerec(tmp_path, "top", "run").returncode == 1


def test_mistakes_are_told_in_one_line(finished: RunFolder, tmp_path: Path) -> None:
    is_told(tmp_path, "status", about="there is no run under runs/")
    is_told(tmp_path, "status", "absent", about="absent is not a run folder")
    is_told(tmp_path, "dashboard", "--run-folder", "absent", about="absent is not a run folder")
    there = ("dashboard", "--run-folder", str(finished.path), "--host")
    is_told(tmp_path, *there, "::", about="that needs ONEREC_ACCESS_SERVICE_TOKEN")


def test_top_is_a_line_where_the_output_is_no_terminal(finished: RunFolder, tmp_path: Path) -> None:
    done = onerec(tmp_path, "top", str(finished.path))
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert done.stdout.startswith("has finished · step 9")


def test_q_leaves_top(finished: RunFolder, tmp_path: Path) -> None:
    """In a terminal of 80 columns, watching a run whose `onerec up` is this process."""
    shutil.copytree(finished.path, tmp_path / "run")
    note(RunFolder.open(tmp_path / "run"), pid=os.getpid())
    ours, theirs = pty.openpty()
    environment = os.environ | {
        "COLUMNS": "80",
        "LINES": "24",
        "TERM": "xterm",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    command = [sys.executable, "-m", "deploy.cli.main", "top", "run"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=environment)
    os.close(theirs)
    try:
        told = b""
        while b"dead letters" not in told:
            told += os.read(ours, 65536)
        os.write(ours, b"q")
        assert process.wait(30) == 0
    finally:
        process.kill()
        os.close(ours)
