"""The streaming trainer on two real processes: one stream, one policy, one checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
import redis
import torch

from common.policy import to_blob
from common.settings import load_settings, save_settings
from tests.trainer.fake_fleet import FakeFleet
from tests.trainer.test_loop import final
from tests.trainer.tiny_run import ITEMS, TinyRun, grown_index, stream_sessions
from tests.trainer.two_ranks import Process, await_both, start_two_ranks
from trainer.__main__ import train
from trainer.checkpoint import Checkpoint, CheckpointError
from trainer.journal import Journal, JournalEntry
from trainer.loop import Trainer

COUNT = 81
TWO = ("stream.partitions=2", "trainer.ranks=2")
HERE = "tests.trainer.test_loop_on_ranks"


@pytest.fixture(autouse=True)
def _redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEREC_REDIS__URL", redis_url)


class Telling(Trainer):
    """A trainer that leaves its rank's weights in the run folder when it has ended."""

    def run(self, stop: Event, on_live: Callable[[], None]) -> None:
        super().run(stop, on_live)
        (self.opened.folder / f"weights-{self.ranks.rank}").write_bytes(to_blob(self.state.training.policy))


def train_and_tell(folder: Path) -> None:
    """What the processes of these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.__main__.Trainer", Telling)
        train(folder, Event())


def train_while_rank_1_is_stopped(folder: Path) -> None:
    """The same, but rank 1 alone was sent SIGTERM, before its first step."""
    stop = Event()
    if os.environ["RANK"] == "1":
        stop.set()
    train(folder, stop)


def start(run: TinyRun, work: str = "train_and_tell") -> list[Process]:
    call = f"import sys; from pathlib import Path; from {HERE} import {work}; {work}(Path(sys.argv[1]))"
    return start_two_ranks([sys.executable, "-c", call, str(run.folder)], run.folder / "log")


def finish(run: TinyRun) -> Checkpoint:
    """Start both ranks, which must end by themselves with the same weights, those of the last checkpoint."""
    codes = await_both(start(run))
    assert codes == [0, 0], [(run.folder / f"log-{rank}").read_text()[-2000:] for rank in (0, 1)]
    checkpoint = final(run)
    assert [(run.folder / f"weights-{rank}").read_bytes() for rank in (0, 1)] == [checkpoint.policy] * 2
    return checkpoint


def recorded(run: TinyRun, rank: int) -> list[JournalEntry]:
    """The whole lines of a rank's journal."""
    path = run.folder / f"journal-{rank}.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [JournalEntry.model_validate(json.loads(line)["entry"]) for line in lines if line.endswith(b"\n")]


def wait_for_steps(run: TinyRun, steps: int) -> None:
    deadline = time.monotonic() + 60
    while min(len(recorded(run, rank)) for rank in (0, 1)) < steps:
        logs = [(run.folder / f"log-{rank}").read_text()[-2000:] for rank in (0, 1)]
        assert time.monotonic() < deadline, f"{steps} steps were not recorded: {logs}"
        time.sleep(0.005)


def kill(ranks: list[Process], run: TinyRun) -> None:
    """kill -9 of rank 1, after which rank 0 must end at once; the dead publisher's lease runs out."""
    ranks[1].kill()
    assert await_both(ranks, 20.0)[0] == 1
    with redis.Redis.from_url(os.environ["ONEREC_REDIS__URL"]) as client:
        client.delete(f"onerec:{run.run}:lease")


def forget(run: TinyRun) -> None:
    """Leave nothing of a run but its log and its journals."""
    shutil.rmtree(run.folder / "checkpoints")
    for path in run.folder.glob("history-*"):
        path.unlink()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, kafka: str, redis_url: str) -> TinyRun:
    """An uninterrupted run of two ranks without reinforcement; some sessions are delivered twice."""
    run = TinyRun.make(tmp_path_factory.mktemp("ranks") / "whole", kafka, *TWO, "rl.rate=0")
    sessions = stream_sessions(COUNT)
    run.send([*sessions, *sessions[10:13]])
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ONEREC_REDIS__URL", redis_url)
        finish(run)
    return run


def test_two_ranks_consume_every_session_exactly_once_into_one_checkpoint(whole: TinyRun) -> None:
    checkpoint = final(whole)
    state, counters = checkpoint.state, checkpoint.state.counters
    taken = [(rank, p, o) for rank in (0, 1) for e in recorded(whole, rank) for p, r in e.ranges.items() for o in range(*r)]
    assert len(taken) == len(set(taken)) == sum(state.sessions.values()) == COUNT + 3
    assert all(rank == partition for rank, partition, _ in taken)
    assert state.step == (COUNT + 3) // 4  # although one partition ends long before the other, batches are whole
    assert abs(state.sessions[0] - state.sessions[1]) > 10
    assert [counters[f"sessions.{name}"] for name in ("consumed", "valid", "duplicates")] == [COUNT + 3, COUNT, 3]
    assert 0.3 * COUNT < counters["sessions.kept"] < 0.7 * COUNT
    assert state.sessions.keys() == state.groups.keys() == state.frontier.low.keys() == {0, 1}
    seen = [int(checkpoint.trainer[f"rank-{rank}.filter.seen"]) for rank in (0, 1)]
    assert sum(seen) == COUNT + 2 * 30  # the warm window primes both
    steps = [json.loads(line) for line in (whole.folder / "trainer_stats.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, state.step + 1))
    assert steps[-1]["counters"] == counters
    assert sum(step["targets"] for step in steps) == counters["targets"]
    assert {path.stem for path in (whole.folder / "ready").iterdir()} == {"trainer", "trainer-1"}


def test_a_killed_rank_ends_the_other_and_a_step_that_one_rank_lacks_is_dropped(
    whole: TinyRun, tmp_path: Path, kafka: str
) -> None:
    run = TinyRun.make(tmp_path / "killed", kafka, *TWO, "rl.rate=0")
    sessions = stream_sessions(COUNT)
    ends = run.send([*sessions, *sessions[10:13]], end=False)
    ranks = start(run)
    wait_for_steps(run, 7)  # between the checkpoints 5 and 10
    kill(ranks, run)
    assert "RanksError: rank 0 of 2 lost the others" in (run.folder / "log-0").read_text()

    common = min(len(recorded(run, rank)) for rank in (0, 1))
    for rank in (0, 1):  # let rank 1 alone have gone on, with a batch that no live rank would cut
        journal = Journal(run.folder / f"journal-{rank}.jsonl")
        journal.drop_after(common)
        if rank == 1:
            at = recorded(run, 1)[-1].ranges[1][1]
            journal.append(JournalEntry(step=common + 1, ranges={1: (at, at + 1)}, index_version=1))
        journal.close()
    run.tell_end(ends)
    assert final(run).state.step <= common
    one, other = final(whole), finish(run)
    assert one.policy == other.policy
    assert one.state.counters == other.state.counters
    assert one.trainer.keys() == other.trainer.keys()
    assert all(torch.equal(one.trainer[name], other.trainer[name]) for name in one.trainer)
    assert [recorded(run, rank) for rank in (0, 1)] == [recorded(whole, rank) for rank in (0, 1)]


def test_a_killed_run_with_groups_and_a_new_index_equals_the_re_execution_of_its_journals(
    tmp_path: Path, kafka: str
) -> None:
    run = TinyRun.make(tmp_path / "rl", kafka, *TWO, "rl.rate=1", "trainer.drain_s=20")
    sessions = stream_sessions(600, items=ITEMS + 2)
    sent = {0: -1, 1: -1}

    def send(count: int) -> None:
        sent.update(run.send([sessions.pop(0) for _ in range(count)], end=False))

    fleet = FakeFleet(run)
    try:
        send(20)
        ranks = start(run)
        wait_for_steps(run, 1)
        grown_index(2).save(run.folder / "index" / "000002")
        while recorded(run, 0)[-1].index_version == 1:
            send(4)
            wait_for_steps(run, sum(last + 1 for last in sent.values()) // 4)
        kill(ranks, run)
        send(20)
        run.tell_end(sent)
        end = finish(run)
    finally:
        fleet.close()
    counters = end.state.counters
    assert counters["sessions.consumed"] == 600 - len(sessions)
    assert counters["requests.sent"] + counters.get("requests.skipped", 0) == counters["sessions.kept"]
    outcomes = {name.removeprefix("groups."): n for name, n in counters.items() if name.startswith("groups.")}
    assert outcomes.keys() <= {"trained", "stale", "unknown_version", "duplicate"}
    assert sum(outcomes.values()) - outcomes["duplicate"] == counters["requests.sent"]
    assert not end.state.frontier.outstanding
    assert counters["indexes.adopted"] == 1
    one, other = ([(entry.step, entry.index_version) for entry in recorded(run, rank)] for rank in (0, 1))
    assert one == other
    assert one[-1][1] == 2
    trained = [sum(group.outcome == "trained" for e in recorded(run, rank) for group in e.groups) for rank in (0, 1)]
    assert min(trained) > 3

    forget(run)
    again = finish(run)
    assert again.policy == end.policy
    assert again.state == end.state


def test_a_rank_that_is_stopped_amid_recorded_steps_leaves_their_record_as_it_is(tmp_path: Path, kafka: str) -> None:
    """Groups are there that the other rank could train. The next start goes on where this one ended."""
    run = TinyRun.make(tmp_path / "stopped", kafka, *TWO, "rl.rate=1", "trainer.drain_s=20")
    sessions = stream_sessions(40)
    ends = run.send(sessions, end=False)
    ranks = start(run)
    wait_for_steps(run, 7)  # between the checkpoints 5 and 10
    kill(ranks, run)
    assert final(run).state.frontier.outstanding
    fleet = FakeFleet(run)
    try:
        deadline = time.monotonic() + 30
        while fleet.answered < len(final(run).state.frontier.outstanding):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        before = [recorded(run, rank) for rank in (0, 1)]
        assert await_both(start(run, "train_while_rank_1_is_stopped")) == [0, 0]
        assert [recorded(run, rank) for rank in (0, 1)] == before
        run.tell_end(ends)
        assert finish(run).state.counters["sessions.consumed"] == len(sessions)
    finally:
        fleet.close()


def test_a_checkpoint_of_another_number_of_ranks_is_refused(whole: TinyRun, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(whole.folder, folder)
    with pytest.raises(ValueError, match=r"trainer\.ranks of .* is 2, but 1 were started"):
        train(folder, Event())
    save_settings(load_settings(folder / "settings.json", ["trainer.ranks=1"]), folder / "settings.json")
    with pytest.raises(CheckpointError, match="the checkpoint's ranks is 2, but here it is 1"):
        train(folder, Event())


def test_a_rank_that_lost_its_journal_is_refused(whole: TinyRun, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(whole.folder, folder)
    (folder / "journal-1.jsonl").unlink()
    run = TinyRun(folder, whole.settings, whole.kafka, whole.prefix)
    assert await_both(start(run)) == [1, 1]
    assert "the ranks' journals end at steps" in (folder / "log-1").read_text()
