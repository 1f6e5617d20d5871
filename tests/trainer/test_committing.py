from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from common.metric_catalogue import REGISTRY
from trainer.committing import BackgroundCommit


@pytest.fixture
def commits() -> Iterator[BackgroundCommit]:
    commits = BackgroundCommit()
    yield commits
    commits.close()


def made(folder: Path, step: int) -> Path:
    """A checkpoint of 7 bytes."""
    checkpoint = folder / f"{step:08d}"
    checkpoint.mkdir()
    (checkpoint / "policy.safetensors").write_bytes(b"policy!")
    return checkpoint


def test_a_commit_runs_beside_and_is_told_once(commits: BackgroundCommit, tmp_path: Path) -> None:
    disk = Event()

    def write() -> Path:
        disk.wait(10)
        return made(tmp_path, 5)

    assert commits.done(wait=False) is None
    commits.begin(5, write)
    assert commits.done(wait=False) is None
    disk.set()
    assert commits.done(wait=True) is True
    assert commits.done(wait=True) is None


def test_the_newest_checkpoint_is_on_the_metrics(commits: BackgroundCommit, tmp_path: Path) -> None:
    commits.begin(45, lambda: made(tmp_path, 45))
    assert commits.done(wait=True) is True
    written = (tmp_path / "00000045" / "policy.safetensors").stat().st_mtime
    assert REGISTRY.get_sample_value("onerec_trainer_checkpoint_step_number") == 45
    assert REGISTRY.get_sample_value("onerec_trainer_checkpoint_timestamp_seconds") == written
    assert REGISTRY.get_sample_value("onerec_trainer_checkpoint_bytes") == 7
    assert REGISTRY.get_sample_value("onerec_trainer_disk_free_bytes")
    shutil.rmtree(tmp_path)
    assert math.isnan(REGISTRY.get_sample_value("onerec_trainer_disk_free_bytes") or 0.0)


def test_a_full_disk_is_told_and_the_next_commit_is_tried(
    commits: BackgroundCommit, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def full() -> Path:
        raise OSError(28, "No space left on device")

    commits.begin(5, full)
    assert commits.done(wait=True) is False
    assert "checkpoint 5 could not be written, training goes on from memory: [Errno 28] No space left" in caplog.text
    commits.begin(10, lambda: made(tmp_path, 10))
    assert commits.done(wait=True) is True


def test_what_is_not_the_disks_fault_is_raised(commits: BackgroundCommit, tmp_path: Path) -> None:
    def wrong() -> Path:
        raise ValueError("a tensor that cannot be saved")

    commits.begin(5, wrong)
    with pytest.raises(ValueError, match="a tensor that cannot be saved"):
        commits.done(wait=True)
    commits.begin(10, lambda: made(tmp_path, 10))
    assert commits.done(wait=True) is True
