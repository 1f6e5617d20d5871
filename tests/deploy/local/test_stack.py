from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from common.settings import load_settings
from deploy.local import stack
from deploy.local.preflight import PreflightError, default_profile, detect
from deploy.local.prepare import Say, is_done, run_step
from deploy.local.processes import StackError
from deploy.local.run_folder import RunFolder, read_json, write_json
from deploy.local.stack import MAX_RESTARTS, Stack, run_lanes
from trainer.checkpoint import MARKER, STATE

SETTINGS = load_settings("test")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "data").mkdir()
    return RunFolder.create(tmp_path / "run", SETTINGS, {"kind": "kuairand", "path": str(tmp_path / "data")})


def ends_with(code: int) -> list[str]:
    return [sys.executable, "-c", f"import sys; print('bye'); sys.exit({code})"]


def sleeps() -> list[str]:
    return [sys.executable, "-c", "import time; time.sleep(60)"]


def note_log(run: RunFolder, told: dict[int, int], consumed: dict[int, int]) -> None:
    """Last offsets as the replay tells them, and the positions of the newest checkpoint."""
    write_json(run.replay, {"run": "run-1", "ends": told})
    for file, body in ((STATE, {"sessions": consumed}), (MARKER, {})):
        write_json(run.checkpoints / "00000003" / file, body)


def test_a_trainer_that_keeps_dying_is_restarted_a_bounded_number_of_times(run: RunFolder) -> None:
    with Stack(run, SETTINGS, 0.0) as stack:
        stack._start("trainer", ends_with(3))
        with pytest.raises(StackError, match=f"trainer ended with status 3 after {MAX_RESTARTS} restarts(.|\n)*bye"):
            stack.watch(lambda: None)
    assert read_json(run.stack) == {"restarts": {"trainer": MAX_RESTARTS}}


def test_a_broker_in_memory_that_dies_ends_the_run(run: RunFolder) -> None:
    with Stack(run, SETTINGS, 0.0) as stack:
        stack._start("trainer", sleeps())
        stack._start("kafka", ends_with(1))
        with pytest.raises(StackError, match=r"kafka ended with status 1(.|\n)*bye"):
            stack.watch(lambda: None)
        trainer = stack.children["trainer"]
    assert not trainer.alive
    assert stack.children == {}


def test_a_page_that_keeps_dying_is_left_alone_and_the_loop_goes_on(run: RunFolder) -> None:
    note_log(run, told={0: 7}, consumed={0: 8})
    with Stack(run, SETTINGS, 0.0) as stack:
        stack._start("trainer", sleeps())
        stack._start("dashboard", ends_with(3))
        with pytest.raises(StackError, match="dashboard ended with status 3 while waiting for the web page"):
            stack.dashboard_address()

        trainer = stack.children["trainer"]

        def end_without_page() -> None:
            if "dashboard" not in stack.children and stack.children["trainer"] is trainer:
                trainer.terminate(1.0)
                stack._start("trainer", ends_with(0))

        stack.watch(end_without_page)
    assert read_json(run.stack) == {"restarts": {"trainer": 0, "dashboard": MAX_RESTARTS}}


def test_the_page_outlives_the_loop_but_not_the_run(run: RunFolder) -> None:
    with Stack(run, SETTINGS, 0.0) as stack:
        for name in ("trainer", "kafka", "dashboard"):
            stack._start(name, sleeps())
        children = dict(stack.children)
        stack.stop_loop()
        assert {name for name, child in children.items() if child.alive} == {"dashboard"}
        assert read_json(run.processes).keys() == {"dashboard"}
    assert not children["dashboard"].alive


def test_a_trainer_that_was_told_to_stop_is_started_again(run: RunFolder) -> None:
    """It ends with status 0 then, too, but the log is not consumed: what is behind its last checkpoint is not trained."""
    with Stack(run, SETTINGS, 0.0) as stack:
        stack._start("replay", ends_with(0))
        stack._start("trainer", ends_with(0))

        def go_on() -> None:
            if stack.restarts["trainer"] == 1:  # the log has not ended yet
                note_log(run, told={0: 7, 1: -1}, consumed={0: 5, 1: 0})
            elif stack.restarts["trainer"] == 2:  # not all of it is consumed
                note_log(run, told={0: 7, 1: -1}, consumed={0: 8, 1: 0})

        stack.watch(go_on)
    assert read_json(run.stack) == {"restarts": {"trainer": 2}}


def test_a_replay_may_end_and_a_trainer_that_is_done_ends_the_watch(run: RunFolder) -> None:
    note_log(run, told={0: 7}, consumed={0: 8})
    with Stack(run, SETTINGS, 0.0) as stack:
        stack._start("replay", ends_with(0))
        stack._start("trainer", ends_with(0))
        stack.watch(lambda: None)


def test_a_step_that_fails_says_why(run: RunFolder) -> None:
    with pytest.raises(StackError, match=r"step log failed with status 1(.|\n)*is not a KuaiRand folder"):
        run_lanes(run, [["log", "tokenize"]], lambda _: None)
    assert not run.log_file("prepare-tokenize").exists()


def test_a_step_is_done_once(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def step(_: RunFolder, say: Say) -> dict[str, int]:
        done.append("log")
        return {"n": 1}

    monkeypatch.setattr("deploy.local.prepare.STEPS", {"log": step})
    for _ in range(2):
        run_step(run, "log", lambda _: None)
    assert done == ["log"]
    assert is_done(run, "log")
    assert read_json(run.prepared / "log.json")["result"] == {"n": 1}


def test_data_folders_are_known_by_their_files(tmp_path: Path) -> None:
    kinds = {
        "kuairand": ["interactions.csv.gz", "history_before_0425.jsonl.gz"],
        "amazon": ["interactions.csv.gz", "items.jsonl.gz"],
    }
    for kind, names in kinds.items():
        (tmp_path / kind).mkdir()
        for name in names:
            (tmp_path / kind / name).touch()
        source = detect(tmp_path / kind)
        assert source == {"kind": kind, "path": str(tmp_path / kind)}
        assert default_profile(source) == kind
        load_settings(default_profile(source))
    assert default_profile(detect(None)) == "demo"
    with pytest.raises(PreflightError, match="is no data folder"):
        detect(tmp_path)


def test_an_imported_log_gets_the_profile_of_its_data(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text('{"source": "kuairand"}')
    assert default_profile(detect(tmp_path)) == "kuairand"


def test_preparation_uses_the_cores_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(stack.THREADS_VARIABLE, "3")
    assert stack._cores() == 3
    for told in ("", "many"):
        monkeypatch.setenv(stack.THREADS_VARIABLE, told)
        assert stack._cores() == len(os.sched_getaffinity(0))
