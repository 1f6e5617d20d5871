"""The follower on real files: it takes up whole snapshots, refuses damaged ones, and holds the last two."""

from __future__ import annotations

import errno
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from common.item_index import IndexFollower, ItemIndex, follower, prune, snapshot_path
from tests.common.item_index.small_index import equal, make_index

WAIT_S = 20.0


@pytest.fixture(autouse=True)
def _looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "LOOK_EVERY_S", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path, 1)
    return tmp_path


def save(folder: Path, version: int, tokenizer: str = "1", damaged: bool = False) -> ItemIndex:
    """A snapshot of its own items; a damaged one has one bit of its vectors flipped before it appears."""
    index = make_index(version=version, seed=version, tokenizer=tokenizer)
    hidden = folder / f"hidden-{version}"
    index.save(hidden)
    if damaged:
        data = bytearray((hidden / "vectors.npy").read_bytes())
        data[len(data) // 2] ^= 1
        (hidden / "vectors.npy").write_bytes(data)
    hidden.rename(snapshot_path(folder, version))
    return index


def await_that(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"


def test_it_begins_with_the_newest_two_or_with_a_given_one_and_the_one_before(folder: Path) -> None:
    indexes = {version: save(folder, version) for version in (2, 4, 5)}
    with closing(IndexFollower(folder)) as newest, closing(IndexFollower(folder, first=4)) as given:
        assert (list(newest.held), list(given.held)) == ([4, 5], [2, 4])
        assert equal(newest.current, indexes[5])
        assert equal(given.current, indexes[4])
        assert newest.refused == given.refused == 0


def test_it_begins_with_what_is_whole_unless_told_otherwise(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    save(folder, 2, damaged=True)
    with closing(IndexFollower(folder)) as newest:
        assert (list(newest.held), newest.refused) == ([1], 1)
        assert not newest.poll()
    with pytest.raises(ValueError, match=r"vectors\.npy is corrupt"):
        IndexFollower(folder, first=2)
    with pytest.raises(ValueError, match="000003 is not a committed index snapshot"):
        IndexFollower(folder, first=3)
    with pytest.raises(ValueError, match="no committed index snapshot that can be loaded"):
        IndexFollower(tmp_path_factory.mktemp("empty"))


def test_a_newer_snapshot_is_taken_up_and_the_last_two_are_held(folder: Path) -> None:
    with closing(IndexFollower(folder)) as following:
        first = following.current
        assert not following.poll()
        second = save(folder, 2)
        await_that(following.poll)
        assert equal(following.current, second)
        assert following.held == {1: first, 2: following.current}
        assert not following.poll()
        save(folder, 3)
        await_that(following.poll)
        assert list(following.held) == [2, 3]


def test_the_current_snapshot_changes_only_in_a_call(folder: Path) -> None:
    with closing(IndexFollower(folder)) as following:
        save(folder, 2)
        assert not following.poll() or following.current.version == 2
        loading = following._lookout._look
        if loading is not None:
            loading.result(WAIT_S)
            assert following.current.version == 1
            assert following.poll()
        assert following.current.version == 2


@pytest.mark.parametrize("how", [{"damaged": True}, {"tokenizer": "2"}])
def test_a_bad_snapshot_is_refused_once_and_the_old_one_stays(
    folder: Path, how: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    with closing(IndexFollower(folder)) as following:
        save(folder, 2, **how)  # type: ignore[arg-type]
        await_that(lambda: following.poll() or following.refused == 1)
        assert following.get(2) is None
        assert [following.poll() for _ in range(5)] == [False] * 5
        assert (list(following.held), following.refused) == ([1], 1)
        assert [r.getMessage().split(":")[0] for r in caplog.records] == ["item index 2 is refused"]
        save(folder, 3)
        await_that(following.poll)
        assert (list(following.held), following.refused) == ([1, 3], 1)


def test_a_snapshot_under_another_versions_name_is_refused(folder: Path) -> None:
    make_index(version=2).save(folder / "000005")
    with closing(IndexFollower(folder)) as following:
        assert (list(following.held), following.refused) == ([1], 1)


def test_a_named_version_is_loaded_at_once_if_it_is_newer(folder: Path) -> None:
    with closing(IndexFollower(folder)) as following:
        assert following.get(2) is None
        expected = save(folder, 2)
        taken = following.get(2)
        assert taken is following.current
        assert equal(taken, expected)
        assert following.get(1) is following.held[1]
        assert following.get(0) is None


def test_a_version_that_was_skipped_or_let_go_is_loaded_again_while_it_is_committed(folder: Path) -> None:
    indexes = {version: save(folder, version) for version in (2, 3)}
    with closing(IndexFollower(folder, first=1)) as following:
        assert equal(following.get(3) or indexes[2], indexes[3])
        assert list(following.held) == [1, 3]
        skipped = following.get(2)
        assert skipped is not None
        assert equal(skipped, indexes[2])
        assert (list(following.held), following.current.version) == ([2, 3], 3)
        assert following.get(1) is not None
        assert list(following.held) == [1, 3]
        prune(folder, 1)
        assert following.get(2) is None
        assert list(following.held) == [1, 3]


def test_several_threads_that_name_a_version_get_the_same_one(folder: Path) -> None:
    with closing(IndexFollower(folder)) as following:
        save(folder, 2)
        got: list[ItemIndex | None] = []
        together = threading.Barrier(4)

        def reader() -> None:
            together.wait(WAIT_S)
            following.poll()
            got.append(following.get(2))

        threads = [threading.Thread(target=reader) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert got == [following.current] * 4
        assert following.current.version == 2


def test_what_is_no_longer_held_is_let_go(folder: Path) -> None:
    with closing(IndexFollower(folder)) as following:
        first = weakref.ref(following.current)
        for version in (2, 3):
            save(folder, version)
            assert following.get(version) is not None
    gc.collect()
    assert first() is None


def test_a_snapshot_that_could_not_be_read_for_a_while_is_taken_up_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as while the process had too many files open. A named version is answered at once meanwhile."""
    monkeypatch.setattr(follower, "AGAIN_S", 1.0)
    load, full = ItemIndex.load, threading.Event()

    def load_if_files_are_left(path: Path, verify: Callable[[Path], None]) -> ItemIndex:
        if full.is_set():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return load(path, verify)

    monkeypatch.setattr(ItemIndex, "load", load_if_files_are_left)
    with closing(IndexFollower(folder)) as following:
        full.set()
        second = save(folder, 2)
        assert following.get(2) is None
        assert [following.poll() for _ in range(5)] == [False] * 5
        assert following.refused == len(caplog.records) == 1
        full.clear()
        await_that(following.poll)
        assert equal(following.current, second)
        assert following.refused == 0
