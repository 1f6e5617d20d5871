from __future__ import annotations

import json
from pathlib import Path

from common.settings import Settings
from deploy.local.processes import free_port
from deploy.local.run_folder import RunFolder
from tests.deploy.cli.test_cli import is_told, onerec
from tests.deploy.local.test_event_files import STEP, append, read_back


def test_doctor_finds_this_machine_well(tmp_path: Path) -> None:
    done = onerec(tmp_path, "doctor", "--json")
    found = {one["check"]: one for one in json.loads(done.stdout)}
    assert done.returncode == 0, found
    assert {"Python", "packages", "torch", "Ray", "memory", "disk", "/dev/shm", "open files"} <= set(found)  # noqa: S108


def test_doctor_tells_what_is_wrong_with_a_run_and_how_to_mend_it(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", Settings(), {})
    address = f"127.0.0.1:{free_port()}"
    done = onerec(tmp_path, "doctor", "--run-folder", "run", "--kafka", address)
    assert done.returncode == 1
    assert f"no Kafka broker at {address}" in done.stdout
    assert "→ before the first start `onerec prepare log --run-folder run`" in done.stdout
    assert "checks, " in done.stdout.splitlines()[-1]
    is_told(tmp_path, "doctor", "--run-folder", "absent", about="absent is not a run folder")


def test_tensorboard_writes_below_the_run(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", Settings(), {})
    append(run.path / "trainer_stats.jsonl", {**STEP, "step": 1})
    done = onerec(tmp_path, "tensorboard", "run")
    assert (done.returncode, done.stderr) == (0, "1 steps in run/tensorboard\n")
    assert list(read_back(run.path / "tensorboard")) == [1]
    is_told(tmp_path, "tensorboard", "absent", about="absent is not a run folder")


def test_the_shell_completes_what_there_is(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "runs" / "monday", Settings(), {})
    asked = {"_ONEREC_COMPLETE": "complete_bash", "COMP_WORDS": "onerec tensorboard ", "COMP_CWORD": "2"}
    assert onerec(tmp_path, **asked).stdout.split() == ["runs/monday"]
