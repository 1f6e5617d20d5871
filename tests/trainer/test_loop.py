import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import redis
import torch

from common.messages import RolloutRequest, Session, decode
from common.parameter_channel import Follower, LeaseLostError
from common.probes import LIVE_S, Pulse
from common.stream import LogReader
from tests.trainer.fake_fleet import FakeFleet
from tests.trainer.tiny_run import ITEMS, TinyRun, grown_index, stream_sessions
from trainer import checkpoint as ck
from trainer.__main__ import train
from trainer.checkpoint import Checkpoint
from trainer.loop import Trainer

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


def kill(trainer: "subprocess.Popen[bytes]", run: TinyRun) -> None:
    """kill -9, and let the dead publisher's lease run out at once."""
    trainer.kill()
    trainer.wait()
    client = redis.Redis.from_url(os.environ["ONEREC_REDIS__URL"])
    client.delete(f"onerec:{run.run}:lease")
    client.close()


def stop_after(run: TinyRun, steps: int) -> None:
    """Train in this process until so many steps are recorded."""
    stop = Event()

    def watch() -> None:
        wait_for_steps(run, steps)
        stop.set()

    watcher = Thread(target=watch)
    watcher.start()
    train(run.folder, stop)
    watcher.join()


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


def test_a_frozen_generator_is_given_the_first_version_alone(tmp_path: Path, kafka: str) -> None:
    run = TinyRun.make(tmp_path / "frozen", kafka, "stream.partitions=1", "rl.rate=0", "sync.frozen=true")
    run.send(stream_sessions(COUNT))
    train(run.folder, Event())
    assert final(run).state.versions == [0, 5, 10, 15, 16]
    assert ck.committed(run.folder / "checkpoints")[0] == 0
    follower = Follower(os.environ["ONEREC_REDIS__URL"], run.run, "reader", 5.0, tmp_path)
    found = follower.fetch_newer(-1)
    follower.close()
    assert found is not None
    assert (found[0], bytes(found[1])) == (0, ck.policy_blob(run.folder / "checkpoints", 0))


def test_killed_anywhere_it_ends_with_the_parameters_of_an_uninterrupted_run(tmp_path: Path, kafka: str) -> None:
    """With reinforcement by feedback, whose ranks depend on the plays of everybody before."""
    sessions = stream_sessions(COUNT)
    settings = ("stream.partitions=1", "rl.rate=0", "rl.lambda_feedback=1", "rl.fewest_plays=1")
    whole = TinyRun.make(tmp_path / "whole", kafka, *settings)
    whole.send(sessions)
    train(whole.folder, Event())

    killed = TinyRun.make(tmp_path / "killed", kafka, *settings)
    ends = killed.send(sessions[:30], end=False)
    trainer = start(killed)
    wait_for_steps(killed, 7)  # between the checkpoints 5 and 10
    kill(trainer, killed)
    ends = killed.send(sessions[30:], end=False)
    stop_after(killed, 12)
    assert 12 <= final(killed).state.step < 16  # stopped after the step at hand, on a checkpoint of its own
    killed.tell_end(ends)
    train(killed.folder, Event())

    one, other = final(whole), final(killed)
    assert len(one.trainer["plays.play_ms"]) > 0
    lines = [json.loads(line) for line in (whole.folder / "trainer_stats.jsonl").read_text().splitlines()]
    assert sum(line["feedback_positive"] for line in lines) > 0
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


def test_groups_are_trained_once_and_a_killed_run_equals_the_retraining_of_its_journal(tmp_path: Path, kafka: str) -> None:
    """Two partitions, rollouts for everybody, duplicated groups, kill -9 in the middle."""
    run = TinyRun.make(tmp_path / "rl", kafka, "stream.partitions=2", "rl.rate=1", "trainer.drain_s=20")
    sessions = stream_sessions(COUNT)
    run.send(sessions[:40], end=False)
    fleet = FakeFleet(run)
    try:
        trainer = start(run)
        wait_for_steps(run, 7)
        kill(trainer, run)
        run.tell_end(run.send(sessions[40:], end=False))
        train(run.folder, Event())
    finally:
        fleet.close()
    end = final(run)
    counters = end.state.counters
    assert counters["sessions.consumed"] == COUNT
    assert counters["requests.sent"] == counters["sessions.kept"]
    settled = [counters.get(f"groups.{outcome}", 0) for outcome in ("trained", "stale", "unknown_version")]
    assert sum(settled) == counters["requests.sent"], dict(counters)
    assert counters["groups.trained"] > 5
    assert counters["groups.duplicate"] > 0
    assert {name for name in counters if name.startswith("groups.")} <= {
        "groups.trained",
        "groups.stale",
        "groups.unknown_version",
        "groups.duplicate",
    }
    assert not end.state.frontier.outstanding

    for path in (run.folder / "checkpoints").iterdir():
        shutil.rmtree(path)
    for path in run.folder.glob("history.sqlite*"):
        path.unlink()
    train(run.folder, Event())
    again = final(run)
    assert again.policy == end.policy
    assert again.state == end.state


def test_a_new_index_is_adopted_between_two_steps_and_again_at_the_same_step_after_a_kill(
    tmp_path: Path, kafka: str
) -> None:
    """New items train nothing until a snapshot knows them; the journal says from which step on one does."""
    run = TinyRun.make(tmp_path / "index", kafka, "stream.partitions=1", "rl.rate=1", "trainer.drain_s=20")
    sessions = stream_sessions(800, items=ITEMS + 4)
    fleet = FakeFleet(run)

    def send_until(version: int) -> dict[int, int]:
        """A batch at a time, so that there is a step to adopt the snapshot at."""
        while sessions:
            ends = run.send([sessions.pop(0) for _ in range(4)], end=False)
            wait_for_steps(run, (ends[0] + 1) // 4)
            if f'"index_version":{version}' in (run.folder / "journal.jsonl").read_text():
                return ends
        raise AssertionError(f"index {version} was never adopted")

    try:
        trainer = start(run)
        send_until(1)
        grown_index(2).save(run.folder / "index" / "000002")
        send_until(2)
        kill(trainer, run)
        (run.folder / "index" / "000003").mkdir()  # a snapshot that was never committed
        trainer = start(run)
        grown_index(4).save(run.folder / "index" / "000004")
        run.tell_end(send_until(4))
        assert trainer.wait(60) == 0
    finally:
        fleet.close()
    end = final(run)
    assert end.state.indexes == [2, 4]
    assert end.state.counters["indexes.adopted"] == 2
    assert end.state.counters["groups.trained"] > 0

    for path in (run.folder / "checkpoints").iterdir():
        shutil.rmtree(path)
    for path in run.folder.glob("history.sqlite*"):
        path.unlink()
    train(run.folder, Event())
    assert final(run).policy == end.policy
    assert final(run).state == end.state


def test_requests_that_a_dead_fleet_never_answers_are_given_up(tmp_path: Path, kafka: str) -> None:
    overrides = ("stream.partitions=1", "rl.rate=1", "rl.max_outstanding=3", "rollout.timeout_s=0.01", "rollout.attempts=1")
    run = TinyRun.make(tmp_path / "run", kafka, *overrides)
    run.send(stream_sessions(20))
    train(run.folder, Event())
    state = final(run).state
    assert not state.frontier.outstanding
    assert state.counters["groups.given_up"] == state.counters["requests.sent"]
    assert state.counters["requests.sent"] + state.counters["requests.skipped"] == state.counters["sessions.kept"]


def test_groups_that_came_while_no_session_did_are_trained_not_given_up(tmp_path: Path, kafka: str) -> None:
    """The stream is quiet for longer than a request is waited for; its groups came in time all the same."""
    overrides = ("stream.partitions=1", "rl.rate=1", "rollout.timeout_s=1", "rollout.attempts=1")
    run = TinyRun.make(tmp_path / "run", kafka, *overrides)
    sessions = stream_sessions(24)
    run.send(sessions[:16], end=False)
    fleet = FakeFleet(run)
    try:
        trainer = start(run)
        wait_for_steps(run, 4)
        time.sleep(4)
        run.tell_end(run.send(sessions[16:], end=False))
        assert trainer.wait(60) == 0
    finally:
        fleet.close()
    counters = final(run).state.counters
    assert "groups.given_up" not in counters, dict(counters)
    assert counters["groups.trained"] + counters.get("groups.stale", 0) == counters["requests.sent"]


def test_a_trainer_that_waits_for_sessions_ends_when_another_takes_its_lease(tmp_path: Path, kafka: str) -> None:
    """Nobody would fill a Redis that comes back empty: its publisher has ended, and its journal keeps the other one out."""
    run, stop = TinyRun.make(tmp_path / "run", kafka, "stream.partitions=1", "rl.rate=0"), Event()

    def take_lease() -> None:
        deadline = time.monotonic() + 30
        while not (run.folder / "ready" / "trainer.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        with redis.Redis.from_url(os.environ["ONEREC_REDIS__URL"]) as client:
            client.set(f"onerec:{run.run}:lease", "another")
        stop.wait(10)
        stop.set()

    other = Thread(target=take_lease)
    other.start()
    with pytest.raises(LeaseLostError):
        train(run.folder, stop)
    in_time = not stop.is_set()
    stop.set()
    other.join()
    assert in_time


def test_a_history_store_that_was_lost_is_read_again(tmp_path: Path, kafka: str) -> None:
    run = TinyRun.make(tmp_path / "run", kafka, "stream.partitions=2", "rl.rate=0")
    sessions = stream_sessions(40)
    run.send(sessions[:20])
    train(run.folder, Event())
    for path in run.folder.glob("history.sqlite*"):
        path.unlink()
    run.send([*sessions[20:], *sessions[:3]])
    train(run.folder, Event())
    counters = final(run).state.counters
    assert (counters["sessions.valid"], counters["sessions.duplicates"]) == (40, 3)


def test_a_trainer_that_repeats_many_steps_counts_as_live(
    tmp_path: Path, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a lost history store again is a turn of the loop to the probe, and every repeated step is another one."""
    run = TinyRun.make(tmp_path / "run", kafka, "stream.partitions=1", "rl.rate=0", "sync.every=100")
    run.send(stream_sessions(16))
    train(run.folder, Event())
    (run.folder / "checkpoints" / "00000004" / "COMMITTED").unlink()
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    pulse.beat()
    monkeypatch.setattr("trainer.loop.PULSE", pulse)
    live, execute = [], Trainer.execute

    def slow(trainer: Trainer, *step: Any) -> None:
        execute(trainer, *step)
        now[0] += 0.4 * LIVE_S
        live.append(pulse.live)

    monkeypatch.setattr(Trainer, "execute", slow)
    train(run.folder, Event())
    assert live == [True] * 4


@pytest.mark.slow
def test_sigterm_ends_it_with_a_checkpoint_and_zero_and_a_missing_topic_with_one_line(tmp_path: Path, kafka: str) -> None:
    run = TinyRun.make(tmp_path / "run", kafka, "stream.partitions=1", "rl.rate=0")
    run.send(stream_sessions(18), end=False)
    trainer = start(run)
    wait_for_steps(run, 4)
    trainer.send_signal(signal.SIGTERM)
    assert trainer.wait(30) == 0
    assert final(run).state.sessions == {0: 16}
    nowhere = TinyRun.make(tmp_path / "nowhere", kafka, topics=False)
    assert start(nowhere).wait(60) == 1
