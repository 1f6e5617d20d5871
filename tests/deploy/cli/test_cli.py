from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.local.processes import free_port

SOON_S = 10.0


def onerec(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ONEREC_")}
    command = [sys.executable, "-m", "deploy.cli.main", *arguments]
    wide = {"COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder, env=clean | wide | environment)


def is_told(folder: Path, *arguments: str, about: str, **environment: str) -> None:
    """The mistake is told in one line on stderr, with exit code 2, within seconds, and nothing is left behind."""
    began = time.monotonic()
    done = onerec(folder, *arguments, **environment)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert time.monotonic() - began < SOON_S
    assert done.stderr.count("\n") == 1, done.stderr
    assert about in done.stderr
    assert not list(folder.glob("runs/*"))


def test_a_wrong_profile_key(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[rl]\nrats = 0.1\n")
    is_told(tmp_path, "up", "--profile", "mine.toml", about="unknown key rl.rats")
    is_told(tmp_path, "up", "--set", "rl.rate=7", about="rl.rate")
    is_told(tmp_path, "up", "--profile", "nothing", about="profile 'nothing' does not exist")
    is_told(tmp_path, "up", about="unknown key rl.rats", ONEREC_RL__RATS="1")


def test_an_unreachable_broker(tmp_path: Path) -> None:
    port = free_port()
    is_told(tmp_path, "up", "--kafka", f"127.0.0.1:{port}", about=f"no Kafka broker at 127.0.0.1:{port}")
    is_told(tmp_path, "topics", "create", "--kafka", f"127.0.0.1:{port}", about=f"127.0.0.1:{port}")
    is_told(tmp_path, "up", "--kafka", "nonsense", about="--kafka must be HOST:PORT, got 'nonsense'")


def test_an_unreachable_redis_whose_password_stays_secret(tmp_path: Path) -> None:
    url = f"redis://:hunter2@127.0.0.1:{free_port()}/0"
    is_told(tmp_path, "up", about="no Redis server at 127.0.0.1", ONEREC_REDIS__URL=url)
    assert "hunter2" not in onerec(tmp_path, "up", ONEREC_REDIS__URL=url).stderr


def test_a_folder_that_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    is_told(tmp_path, "up", "--data", "empty", about="empty is no data folder")
    is_told(tmp_path, "up", "--data", "absent", about="absent is not a folder")
    is_told(tmp_path, "import", "kuairand", "empty", about="is not a KuaiRand folder: missing")
    is_told(tmp_path, "replay", "empty", "--kafka", "localhost:1", about="is not a session log folder")


def test_a_folder_where_the_report_goes(tmp_path: Path) -> None:
    """Told before the loop runs, not after."""
    is_told(tmp_path, "up", "--profile", "test", "--report", str(tmp_path), about="--report must be a file, got the folder")
    (tmp_path / "file").touch()
    is_told(tmp_path, "up", "--profile", "test", "--report", "file/report.json", about="File exists: 'file'")


def test_a_place_for_a_log_that_is_taken(tmp_path: Path) -> None:
    """Told before the log is made, not after."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "log.json").touch()
    for command in (["simulate", "--profile", "test"], ["import", "kuairand", "raw"], ["import", "amazon", "raw"]):
        is_told(tmp_path, *command, "--out", "taken", about="taken exists already: choose another --out")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    for command in ("train", "rollout", "reward", "report"):
        is_told(tmp_path, command, "--run-folder", "absent", about="absent is not a run folder")


@pytest.mark.parametrize(
    "command",
    [
        "",
        "up",
        "simulate",
        "import",
        "replay",
        "topics create",
        "report",
        "evaluate",
        "prepare",
        "status",
        "top",
        "dashboard",
    ],
)
def test_every_command_has_help(tmp_path: Path, command: str) -> None:
    done = onerec(tmp_path, *command.split(), "--help")
    assert done.returncode == 0
    assert "Usage: onerec" in done.stdout


def test_a_run_folder_is_never_used_twice(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "settings.json").write_text("{}")
    done = onerec(tmp_path, "up", "--profile", "test", "--run-folder", "taken")
    assert done.returncode == 2
    assert "holds a run already" in done.stderr
