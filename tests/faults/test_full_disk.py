"""The disk under the checkpoints is full for a while: training goes on, and what was committed before stays."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from tests.trainer.test_loop import COUNT, final
from tests.trainer.tiny_run import TinyRun, stream_sessions
from trainer import checkpoint as ck
from trainer.__main__ import train
from trainer.checkpoint import CheckpointError

MOUNT, UMOUNT = (shutil.which(name) or name for name in ("mount", "umount"))


@pytest.fixture(autouse=True)
def _redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEREC_REDIS__URL", redis_url)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run([MOUNT, "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")
    yield disk
    subprocess.run([UMOUNT, "-l", disk], check=True)


def run_on(disk: Path, tmp_path: Path, kafka: str) -> TinyRun:
    """A run whose checkpoints lie on the small disk."""
    run = TinyRun.make(tmp_path / "run", kafka, "stream.partitions=1", "rl.rate=0")
    (disk / "checkpoints").mkdir()
    (run.folder / "checkpoints").symlink_to(disk / "checkpoints")
    return run


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves so many bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(shutil.disk_usage(disk).free - leave))
    return ballast


def test_a_disk_that_fills_up_and_is_freed_again(
    small_disk: Path, tmp_path: Path, kafka: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_on(small_disk, tmp_path, kafka)
    run.send(stream_sessions(COUNT))
    commit, ballast = ck.commit, small_disk / "ballast"
    whole = {0: True, 5: True, 10: False, 15: True}

    def commit_with_faults(folder: Path, checkpoint: ck.Checkpoint, retain: list[int]) -> Path:
        step = checkpoint.state.step
        if step == 10:
            fill(small_disk, leave=4096)
        elif step == 15:
            ballast.unlink()
        return commit(folder, checkpoint, retain)

    monkeypatch.setattr("trainer.loop.commit", commit_with_faults)
    train(run.folder, Event())
    state = final(run).state
    assert state.step == 16
    assert state.versions == [step for step, fits in whole.items() if fits] + [16]
    assert state.counters["sessions.consumed"] == COUNT
    assert "checkpoint 10 could not be written" in caplog.text
    assert "No space left on device" in caplog.text
    assert not list((small_disk / "checkpoints").glob(".*"))


def test_a_disk_that_stays_full_loses_nothing(small_disk: Path, tmp_path: Path, kafka: str) -> None:
    run = run_on(small_disk, tmp_path, kafka)
    sessions = stream_sessions(COUNT)
    run.send(sessions[:20])
    train(run.folder, Event())
    before = final(run)
    ballast = fill(small_disk, leave=4096)
    run.send(sessions[20:])
    with pytest.raises(CheckpointError, match=f"the steps behind checkpoint {before.state.step} could not be written"):
        train(run.folder, Event())
    assert final(run).state == before.state
    ballast.unlink()
    train(run.folder, Event())
    counters = final(run).state.counters
    assert (counters["sessions.consumed"], counters["sessions.duplicates"]) == (COUNT, 0)
