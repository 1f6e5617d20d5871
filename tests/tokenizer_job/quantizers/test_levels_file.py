"""An interrupted fit goes on from its finished levels to the codebooks of an uninterrupted one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.settings import TokenizerSettings
from tokenizer_job.quantizers import Fitted, fit_quantizer
from tokenizer_job.quantizers.levels_file import LevelsFile

SETTINGS = TokenizerSettings(iterations=10, backend="torch")
VECTORS = np.random.default_rng(0).normal(size=(3000, 6)).astype(np.float32)


class InterruptError(Exception):
    pass


def fit(seed: int, path: Path | None, until: str = "none") -> Fitted:
    def progress(text: str) -> None:
        if until in text:
            raise InterruptError(text)

    return fit_quantizer(VECTORS, SETTINGS, 8, 3, seed, progress, path)


def test_an_interrupted_fit_ends_like_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "levels.safetensors"
    with pytest.raises(InterruptError):
        fit(3, path, until="level 3")
    assert path.exists()
    said: list[str] = []
    again = fit_quantizer(VECTORS, SETTINGS, 8, 3, 3, said.append, path)
    assert again.quantizer.fingerprint() == fit(3, None).quantizer.fingerprint()
    assert {text.split(":")[0] for text in said} == {"level 3 of 3"}
    assert not path.exists()


def test_another_fits_or_a_damaged_file_is_not_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "levels.safetensors"
    with pytest.raises(InterruptError):
        fit(3, path, until="level 2")
    assert fit(4, path).quantizer.fingerprint() == fit(4, None).quantizer.fingerprint()
    kept = LevelsFile(path, VECTORS, "settings")
    kept.write([VECTORS[:8]])
    assert len(kept.read()) == 1
    assert LevelsFile(path, VECTORS + 1, "settings").read() == []
    assert LevelsFile(path, VECTORS, "other settings").read() == []
    path.write_bytes(path.read_bytes()[:40])
    assert kept.read() == []
