"""What pruning keeps: the newest snapshots, whatever a reader has pinned, and everything newer."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.item_index import MANIFEST, ItemIndex, pin, prune, versions
from tests.common.item_index.small_index import make_index


def fake_snapshots(folder: Path, *committed: int) -> Path:
    """Folders that count as committed snapshots."""
    for version in committed:
        (folder / f"{version:06d}").mkdir()
        (folder / f"{version:06d}" / MANIFEST).touch()
    return folder


@given(
    st.sets(st.integers(1, 12), min_size=1, max_size=6),
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)), max_size=3),
    st.integers(1, 4),
)
def test_pruning_keeps_the_newest_and_everything_from_the_oldest_pin_on(
    tmp_path_factory: pytest.TempPathFactory, committed: set[int], pins: list[tuple[str, int]], keep: int
) -> None:
    folder = fake_snapshots(tmp_path_factory.mktemp("index"), *committed)
    ordered = sorted(committed)
    pinned = {reader: ordered[place % len(ordered)] for reader, place in pins}
    for reader, place in pins:
        pin(folder, reader, ordered[place % len(ordered)])
    removed = prune(folder, keep)
    needed = {v for v in ordered if v in ordered[-keep:] or any(v >= p for p in pinned.values())}
    assert set(versions(folder)) == needed
    assert removed == [v for v in ordered if v not in needed]
    assert prune(folder, keep) == []


def test_a_pin_moves_with_its_reader(tmp_path: Path) -> None:
    fake_snapshots(tmp_path, 1, 2, 3)
    pin(tmp_path, "trainer", 1)
    assert prune(tmp_path, 1) == []
    pin(tmp_path, "trainer", 3)
    assert prune(tmp_path, 1) == [1, 2]
    assert [p.name for p in (tmp_path / "pins").iterdir()] == ["trainer.json"]


def test_a_pin_needs_a_name_and_a_committed_version(tmp_path: Path) -> None:
    fake_snapshots(tmp_path, 1)
    for reader in ("", "../trainer", ".hidden", "a/b"):
        with pytest.raises(ValueError, match="reader must be"):
            pin(tmp_path, reader, 1)
    with pytest.raises(ValueError, match="no committed index snapshot 2"):
        pin(tmp_path, "trainer", 2)
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        prune(tmp_path, 0)


def test_nothing_is_removed_while_a_pin_cannot_be_read(tmp_path: Path) -> None:
    fake_snapshots(tmp_path, 1, 2)
    pin(tmp_path, "trainer", 1)
    (tmp_path / "pins" / "trainer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"trainer\.json cannot be read"):
        prune(tmp_path, 1)
    assert versions(tmp_path) == [1, 2]


def test_only_old_left_overs_are_removed(tmp_path: Path) -> None:
    fake_snapshots(tmp_path, 1)
    for name, age_s in ((".000002-abc_1", 2 * 86_400), (".000003-def", 3600), (".git", 2 * 86_400), ("notes", 2 * 86_400)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    prune(tmp_path, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".000003-def", ".git", "000001", "notes"]


def test_a_mapped_snapshot_stays_readable_after_it_was_removed(tmp_path: Path) -> None:
    index = make_index()
    index.save(tmp_path / "000001")
    loaded = ItemIndex.load(tmp_path / "000001")
    make_index(version=2).save(tmp_path / "000002")
    assert prune(tmp_path, 1) == [1]
    np.testing.assert_array_equal(loaded.vectors, index.vectors)
    assert loaded.rows(index.item_ids).tolist() == list(range(len(index)))
