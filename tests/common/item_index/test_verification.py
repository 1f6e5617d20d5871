"""Verification in a process of its own says what verification here says."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.item_index import verification
from common.item_index.verification import verify_apart
from tests.common.item_index.small_index import make_index


def test_a_whole_snapshot_passes_and_a_changed_one_is_named(tmp_path: Path) -> None:
    saved = tmp_path / "000001"
    make_index().save(saved)
    verify_apart(saved)
    data = bytearray((saved / "sids.npy").read_bytes())
    data[-1] ^= 1
    (saved / "sids.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"^index file .*sids\.npy is corrupt"):
        verify_apart(saved)
    (saved / "sids.npy").unlink()
    with pytest.raises(ValueError, match=r"^index file .*sids\.npy is missing$"):
        verify_apart(saved)


def test_it_does_not_wait_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "TIMEOUT_S", 1e-3)
    with pytest.raises(ValueError, match="000001 could not be verified within 0 s"):
        verify_apart(tmp_path / "000001")
