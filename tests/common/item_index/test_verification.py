"""Verification in a process of its own says what verification here says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from common.item_index import verification
from common.item_index.verification import Verifier
from tests.common.item_index.small_index import make_index


@pytest.fixture
def verify() -> Iterator[Verifier]:
    with closing(Verifier()) as verifier:
        yield verifier


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make_index().save(tmp_path / "000001")
    return tmp_path / "000001"


def test_a_whole_snapshot_passes_and_a_changed_one_is_named(verify: Verifier, saved: Path) -> None:
    verify(saved)
    data = bytearray((saved / "sids.npy").read_bytes())
    data[-1] ^= 1
    (saved / "sids.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"^index file .*sids\.npy is corrupt"):
        verify(saved)
    (saved / "sids.npy").unlink()
    with pytest.raises(ValueError, match=r"^index file .*sids\.npy is missing$"):
        verify(saved)


def test_it_does_not_wait_forever_and_goes_on(verify: Verifier, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(verification, "TIMEOUT_S", 0.0)
        with pytest.raises(OSError, match=r"000001 could not be verified: .* did not answer within 0 s"):
            verify(saved)
    verify(saved)
