from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import pytest

from trainer.committing import BackgroundCommit


@pytest.fixture
def commits() -> Iterator[BackgroundCommit]:
    made = BackgroundCommit()
    yield made
    made.close()


def test_a_commit_runs_beside_and_is_told_once(commits: BackgroundCommit) -> None:
    disk = Event()
    assert commits.done(wait=False) is None
    commits.begin(5, lambda: disk.wait(10))
    assert commits.done(wait=False) is None
    disk.set()
    assert commits.done(wait=True) is True
    assert commits.done(wait=True) is None


def test_a_full_disk_is_told_and_the_next_commit_is_tried(
    commits: BackgroundCommit, caplog: pytest.LogCaptureFixture
) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    commits.begin(5, full)
    assert commits.done(wait=True) is False
    assert "checkpoint 5 could not be written, training goes on from memory: [Errno 28] No space left" in caplog.text
    commits.begin(10, lambda: None)
    assert commits.done(wait=True) is True


def test_what_is_not_the_disks_fault_is_raised(commits: BackgroundCommit) -> None:
    def wrong() -> None:
        raise ValueError("a tensor that cannot be saved")

    commits.begin(5, wrong)
    with pytest.raises(ValueError, match="a tensor that cannot be saved"):
        commits.done(wait=True)
    commits.begin(10, lambda: None)
    assert commits.done(wait=True) is True
