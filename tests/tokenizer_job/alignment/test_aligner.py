"""The saved aligner encodes as the trained one, and refuses what it cannot read."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from common.content import Content
from tests.tokenizer_job.alignment.worlds import TINY, WIDTH, content
from tokenizer_job.alignment.aligner import Aligner
from tokenizer_job.alignment.qformer import QFormer


@pytest.mark.parametrize("literal", [False, True])
def test_saved_and_loaded_it_encodes_the_same(tmp_path: Path, literal: bool) -> None:
    settings = TINY.model_copy(update={"literal": literal})
    aligner = Aligner(QFormer(settings, WIDTH), settings, WIDTH)
    aligner.save(tmp_path / "aligner")
    again = Aligner.load(tmp_path / "aligner")
    vectors = aligner.encode(content())
    np.testing.assert_array_equal(again.encode(content()), vectors)
    assert vectors.shape == (60, TINY.queries * TINY.width)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["aligner"]


def test_chunks_and_items_without_content() -> None:
    aligner, given = Aligner(QFormer(TINY, WIDTH), TINY, WIDTH), content()
    given.mask[7] = False
    whole = aligner.encode(given)
    with patch("tokenizer_job.alignment.aligner.CHUNK", 11):
        np.testing.assert_allclose(aligner.encode(given), whole, atol=1e-6)
    assert not whole[7].any()
    assert aligner.encode(given.take(np.empty(0, np.int64))).shape == (0, 32)


def test_content_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="content vectors must be 12 wide, as the aligner was trained, got 5"):
        Aligner(QFormer(TINY, WIDTH), TINY, WIDTH).encode(Content.of(np.ones((2, 5))))


@pytest.mark.parametrize(("kept", "old", "new"), [(-9, b"", b""), (1, b"", b""), (None, b"layers", b"leyars")])
def test_a_damaged_file_is_refused(tmp_path: Path, kept: int | None, old: bytes, new: bytes) -> None:
    path = tmp_path / "aligner"
    Aligner(QFormer(TINY, WIDTH), TINY, WIDTH).save(path)
    path.write_bytes(path.read_bytes()[:kept].replace(old, new))
    with pytest.raises(ValueError, match="is not an aligner"):
        Aligner.load(path)
