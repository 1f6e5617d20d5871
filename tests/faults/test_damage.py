"""Bits that flip on disk, and clocks that are wrong: a run ends as if nothing had been, or refuses and says why."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from tests.faults.test_trainer_kills import check_ledger
from tests.trainer.test_loop import COUNT, final, kill, start, wait_for_steps
from tests.trainer.tiny_run import TinyRun, stream_sessions
from trainer.__main__ import train
from trainer.checkpoint import MARKER, POLICY, STATE, TRAINER, CheckpointError, committed
from trainer.journal import JournalError

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
SETTINGS = ("stream.partitions=1", "rl.rate=0")


@pytest.fixture(autouse=True)
def _redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEREC_REDIS__URL", redis_url)


@pytest.fixture(scope="module")
def whole(kafka: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """What a run over these sessions ends with when nothing happens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEREC_REDIS__URL", redis_url)
        run = TinyRun.make(tmp_path_factory.mktemp("whole") / "run", kafka, *SETTINGS)
        run.send(stream_sessions(COUNT))
        train(run.folder, Event())
    return run


def flip_a_bit(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def killed(tmp_path: Path, kafka: str) -> TinyRun:
    """A run that was killed between the checkpoints 10 and 15."""
    run = TinyRun.make(tmp_path / "killed", kafka, *SETTINGS)
    ends = run.send(stream_sessions(COUNT), end=False)
    trainer = start(run)
    wait_for_steps(run, 12)
    kill(trainer, run)
    run.tell_end(ends)
    return run


@pytest.mark.parametrize("name", [POLICY, TRAINER, STATE, MARKER])
def test_a_bit_of_the_newest_checkpoint_flips(
    name: str, whole: TinyRun, tmp_path: Path, kafka: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = killed(tmp_path, kafka)
    newest = run.folder / "checkpoints" / f"{committed(run.folder / 'checkpoints')[-1]:08d}"
    flip_a_bit(newest / name, random.Random(name))
    train(run.folder, Event())
    assert f"{newest / name}" in caplog.text or f"{newest / MARKER}" in caplog.text
    assert "falling back to the one before" in caplog.text
    assert final(run).policy == final(whole).policy
    check_ledger(run, COUNT)


def _every_checkpoint(run: TinyRun) -> None:
    for step in committed(run.folder / "checkpoints"):
        flip_a_bit(run.folder / "checkpoints" / f"{step:08d}" / POLICY, random.Random(step))


def _the_journal(run: TinyRun) -> None:
    lines = (run.folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    lines[-1] = lines[-1].replace(b'"step":', b'"stop":')
    (run.folder / "journal.jsonl").write_bytes(b"".join(lines))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_every_checkpoint, r"no intact checkpoint is left in .*policy\.safetensors is damaged"),
        (_the_journal, r"journal\.jsonl line \d+ is damaged"),
    ],
    ids=["every checkpoint", "the journal"],
)
def test_what_nothing_can_replace_is_refused(
    damage: Callable[[TinyRun], None], told: str, tmp_path: Path, kafka: str
) -> None:
    run = killed(tmp_path, kafka)
    damage(run)
    before = {path: path.read_bytes() for path in sorted(run.folder.glob("checkpoints/*/*"))}
    with pytest.raises((CheckpointError, JournalError), match=told):
        train(run.folder, Event())
    assert {path: path.read_bytes() for path in sorted(run.folder.glob("checkpoints/*/*"))} == before


@pytest.mark.parametrize("skew_s", [-400 * 86_400.0, 86_400.0], ids=["400 days late", "a day early"])
def test_a_wrong_clock_changes_nothing(skew_s: float, whole: TinyRun, tmp_path: Path, kafka: str) -> None:
    run = TinyRun.make(tmp_path / "run", kafka, *SETTINGS)
    run.send(stream_sessions(COUNT))
    command = [sys.executable, "-m", "tests.faults.skewed", str(skew_s), "trainer", "--run-folder", str(run.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert final(run).policy == final(whole).policy
    assert final(run).state.counters == final(whole).state.counters
