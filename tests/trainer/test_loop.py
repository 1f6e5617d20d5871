import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest
import torch

from common.messages import RolloutRequest, Session, decode
from common.stream import LogReader
from tests.trainer.tiny_run import TinyRun, stream_sessions
from trainer import checkpoint as ck
from trainer.__main__ import train
from trainer.checkpoint import Checkpoint

torch.set_num_threads(1)
COUNT = 61


@pytest.fixture(autouse=True)
def _redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEREC_REDIS__URL", redis_url)


def final(run: TinyRun) -> Checkpoint:
    checkpoint = ck.load_latest(run.folder / "checkpoints")
    assert checkpoint is not None
    return checkpoint


def start(run: TinyRun) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "trainer", "--run-folder", str(run.folder)], env=os.environ)


def steps_recorded(run: TinyRun) -> int:
    journal = run.folder / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def wait_for_steps(run: TinyRun, steps: int) -> None:
    deadline = time.monotonic() + 60
    while steps_recorded(run) < steps:
        assert time.monotonic() < deadline, f"only {steps_recorded(run)} of {steps} steps were recorded"
        time.sleep(0.005)


def read_all(run: TinyRun, topic: str, partitions: int, count: int) -> list[bytes]:
    reader = LogReader(run.kafka, run.topic(topic), dict.fromkeys(range(partitions), 0), 10.0)
    values: list[bytes] = []
    deadline = time.monotonic() + 10
    while len(values) < count and time.monotonic() < deadline:
        values += [record.value or b"" for record in reader.poll(100, 0.2)]
    values += [record.value or b"" for record in reader.poll(100, 0.2)]
    reader.close()
    return values


def test_a_finite_log_is_trained_to_its_end_and_every_session_counts_once(tmp_path: Path, kafka: str) -> None:
    run = TinyRun.make(tmp_path / "run", kafka, "stream.partitions=2", "rl.rate=0")
    sessions = stream_sessions(COUNT)
    run.send([*sessions, *sessions[10:13]])
    train(run.folder, Event())
    state = final(run).state
    counters = state.counters
    assert (counters["sessions.consumed"], counters["sessions.valid"], counters["sessions.duplicates"]) == (64, COUNT, 3)
    assert 0.3 * COUNT < counters["sessions.kept"] < 0.7 * COUNT
    assert counters["targets"] == 3 * counters["sessions.kept"]
    assert (state.step, sum(state.sessions.values())) == (16, 64)
    assert state.versions == [0, 5, 10, 15, 16]
    lines = [json.loads(line) for line in (run.folder / "trainer_stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 17))
    assert (run.folder / "ready" / "trainer.json").exists()


def test_killed_anywhere_it_ends_with_the_parameters_of_an_uninterrupted_run(tmp_path: Path, kafka: str) -> None:
    sessions = stream_sessions(COUNT)
    whole = TinyRun.make(tmp_path / "whole", kafka, "stream.partitions=1", "rl.rate=0")
    whole.send(sessions)
    train(whole.folder, Event())

    killed = TinyRun.make(tmp_path / "killed", kafka, "stream.partitions=1", "rl.rate=0")
    ends = killed.send(sessions[:30], end=False)
    for steps in (3, 7):  # before the first checkpoint after the start, and between two
        trainer = start(killed)
        wait_for_steps(killed, steps)
        trainer.kill()
        trainer.wait()
    ends = killed.send(sessions[30:], end=False)
    trainer = start(killed)
    wait_for_steps(killed, 12)
    trainer.send_signal(signal.SIGTERM)
    assert trainer.wait(30) == 0
    killed.tell_end(ends)
    train(killed.folder, Event())

    one, other = final(whole), final(killed)
    assert one.policy == other.policy
    assert one.state.counters == other.state.counters
    assert one.trainer.keys() == other.trainer.keys()
    assert all(torch.equal(one.trainer[name], other.trainer[name]) for name in one.trainer)


def test_bad_records_are_kept_as_dead_letters_and_stop_nothing(tmp_path: Path, kafka: str) -> None:
    run = TinyRun.make(tmp_path / "run", kafka, "stream.partitions=1", "rl.rate=0")
    good = [(s.to_bytes(), 0, s.time_ms) for s in stream_sessions(8)]
    newer = good[0][0].replace(b'"schema_version":1', b'"schema_version":2')
    run.send_raw([good[0], (b"{not json", 0, good[0][2]), (newer, 0, good[0][2]), *good[1:]])
    train(run.folder, Event())
    counters = final(run).state.counters
    assert (counters["sessions.consumed"], counters["sessions.valid"], counters["sessions.rejected"]) == (10, 8, 2)
    letters = [json.loads(value) for value in read_all(run, "dead-letters", 1, 2)]
    assert [letter["offset"] for letter in letters] == [1, 2]
    assert "upgrade consumers first" in letters[1]["reason"]


def test_requests_carry_a_context_of_earlier_events_only(tmp_path: Path, kafka: str) -> None:
    run = TinyRun.make(
        tmp_path / "run", kafka, "stream.partitions=2", "rl.rate=1", "trainer.drain_s=0", "rl.max_outstanding=64"
    )
    sessions = stream_sessions(40)
    run.send(sessions)
    train(run.folder, Event())
    state = final(run).state
    values = read_all(run, "rollout-requests", 2, state.counters["requests.sent"])
    requests = [request for value in values if isinstance(request := decode(RolloutRequest, value), RolloutRequest)]
    assert (
        len(requests)
        == state.counters["requests.sent"]
        == state.counters["sessions.kept"]
        == len(state.frontier.outstanding)
    )
    assert len({request.request_id for request in requests}) == len(requests)
    by_time: dict[tuple[int, int], Session] = {(s.user_id, s.time_ms): s for s in sessions}
    for request in requests:
        own = by_time[request.context.user_id, request.context.time_ms]
        times = request.context.events.time_ms
        assert all(t < own.time_ms for t in times)
        streamed = [s for s in sessions if s.user_id == own.user_id and s.time_ms < own.time_ms]
        assert len([t for t in times if t >= sessions[0].time_ms]) == 3 * len(streamed)
