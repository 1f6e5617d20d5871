"""Snapshots on disk: equal to what was saved, or refused whichever byte of whichever file is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.item_index import MANIFEST, ItemIndex, latest_index, read_note, versions
from common.item_index.snapshot import FORMAT
from tests.common.item_index.small_index import equal, make_index

NOTE = {"positions": {"0": 17, "1": 0}, "share": 0.1}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "000007"
    make_index(version=7).save(folder, NOTE)
    return folder


@contextmanager
def instead(path: Path, data: bytes) -> Iterator[None]:
    """Another content for a while."""
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(whole)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
def test_a_loaded_snapshot_equals_the_saved_one_and_is_mapped(tmp_path: Path, levels: int) -> None:
    index = make_index(version=7, levels=levels)
    index.save(tmp_path / "000007", NOTE)
    loaded = ItemIndex.load(tmp_path / "000007")
    assert equal(loaded, index)
    assert (loaded.head_items(loaded.sids) == index.head_items(index.sids)).all()
    mapped: list[np.ndarray] = [loaded.sids, loaded.vectors, loaded.bucket_items, loaded.trie.leaf_keys]
    assert not any(array.flags.writeable or array.flags.owndata for array in mapped)
    assert read_note(tmp_path / "000007") == NOTE
    assert [p.name for p in tmp_path.iterdir()] == ["000007"]


def test_a_snapshot_is_immutable_and_its_note_is_json(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(ValueError, match="000007 exists already, and snapshots are immutable"):
        make_index().save(saved)
    with pytest.raises(ValueError, match="JSON"):
        make_index().save(tmp_path / "000001", {"share": float("nan")})
    assert not list(tmp_path.iterdir())  # nothing is left of what failed


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_a_snapshot_with_any_byte_changed_is_refused_naming_the_file(saved: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files(saved)), "file")
    whole = bytearray(path.read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1), "position")] ^= data.draw(st.integers(1, 255), "bits")
    with (
        instead(path, bytes(whole)),
        pytest.raises(ValueError, match=f"{path.name}.*is corrupt|{path.name}: format must be 2"),
    ):
        ItemIndex.load(saved)


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_a_snapshot_with_a_torn_or_longer_file_is_refused_naming_it(saved: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files(saved)), "file")
    whole = path.read_bytes()
    size = data.draw(st.integers(0, 2 * len(whole)).filter(lambda n: n != len(whole)), "size")
    with instead(path, (whole + b" " * len(whole))[:size]), pytest.raises(ValueError, match=path.name):
        ItemIndex.load(saved)


def test_a_snapshot_with_a_missing_file_is_refused_naming_it(saved: Path) -> None:
    for path in files(saved):
        path.rename(saved.parent / "away")
        with pytest.raises(ValueError, match=f"{path.name} is missing"):
            ItemIndex.load(saved)
        (saved.parent / "away").rename(path)
    ItemIndex.load(saved)


def test_a_snapshot_of_another_format_says_so(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_bytes()) | {"format": FORMAT - 1}
    with (
        instead(saved / MANIFEST, json.dumps(manifest).encode()),
        pytest.raises(ValueError, match=f"format must be {FORMAT}, got {FORMAT - 1}; build the index again"),
    ):
        ItemIndex.load(saved)


def test_only_committed_snapshots_count(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(ValueError, match="no committed index"):
        latest_index(tmp_path)
    assert versions(tmp_path / "absent") == []
    for name in ("000001", "000012", "1000000", "000009"):
        (tmp_path / name).symlink_to(saved)
    (tmp_path / "2000000").mkdir()  # never committed
    (tmp_path / ".000100-leftover").mkdir()
    (tmp_path / "000013").touch()
    assert versions(tmp_path) == [1, 9, 12, 1_000_000]
    assert latest_index(tmp_path).name == "1000000"


def test_files_belong_to_their_owner_alone(saved: Path) -> None:
    assert saved.stat().st_mode & 0o077 == 0
