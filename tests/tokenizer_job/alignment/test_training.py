"""The fit: it aligns, it is a function of its seed, and an interrupted one goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
import torch

from common.settings import AlignmentSettings
from tests.tokenizer_job.alignment.worlds import ITEMS, TINY, captions, community, content, pairs
from tokenizer_job.alignment.pairs import Pairs
from tokenizer_job.alignment.training import AlignmentFit, fit_alignment

Floats = npt.NDArray[np.float32]
NO_CAPTIONS = [""] * ITEMS
DROPPING = TINY.model_copy(update={"dropout": 0.2, "symmetric": True})


def fit(settings: AlignmentSettings = DROPPING, seed: int = 3, resume: Path | None = None) -> Floats:
    return fit_alignment(content(), captions(), pairs(), settings, seed, resume=resume).encode(content())


def share_of_own_community(vectors: Floats) -> float:
    """Of each item's five nearest."""
    likeness = vectors @ vectors.T - 9 * np.eye(ITEMS)
    nearest = np.argsort(-likeness, 1)[:, :5]
    return float((community()[nearest] == community()[:, None]).mean())


def test_paired_items_come_together_and_captions_are_learned() -> None:
    settings = TINY.model_copy(update={"steps": 60, "caption_learning_rate": 1e-2})
    lines: list[str] = []
    alignment = AlignmentFit(content(), captions(), pairs(), settings, seed=0)
    before = alignment.caption_loss(content(), captions())
    vectors = alignment.run(lines.append).encode(content())
    raw = content().pooled()
    assert share_of_own_community(vectors) > share_of_own_community(raw / np.linalg.norm(raw, axis=1, keepdims=True)) + 0.2
    assert alignment.caption_loss(content(), captions()) < 0.5 * before
    assert lines[-1].startswith("alignment step 60/60: contrast ")
    assert lines[-1].endswith("pairs/s, 0 s left")


@pytest.mark.parametrize("literal", [False, True])
def test_without_captions(literal: bool) -> None:
    settings = TINY.model_copy(update={"literal": literal})
    alignment = AlignmentFit(content(), NO_CAPTIONS, pairs(), settings, seed=0)
    assert alignment.decoder is None
    losses = [alignment.step(number) for number in range(1, 31)]
    assert losses[-1].contrast < losses[0].contrast
    assert losses[-1].captions == 0
    with pytest.raises(ValueError, match="without captions"):
        alignment.caption_loss(content(), captions())
    weightless = fit(TINY.model_copy(update={"caption_weight": 0.0}))
    np.testing.assert_array_equal(weightless, fit_alignment(content(), NO_CAPTIONS, pairs(), TINY, 3).encode(content()))


def test_captions_alone() -> None:
    """Without the contrast, the same items' captions are trained, as often."""
    alone = AlignmentFit(content(), captions(), pairs(), TINY.model_copy(update={"contrast_weight": 0.0}), seed=0)
    both = AlignmentFit(content(), captions(), pairs(), TINY, seed=0)
    one, other = alone.step(1), both.step(1)
    assert one.contrast == 0
    assert one.captions == pytest.approx(other.captions, rel=1e-5)


def test_some_items_without_text_or_content() -> None:
    given, texts = content(), captions()
    given.mask[5] = False
    texts[6] = " "
    vectors = fit_alignment(given, texts, pairs(), TINY, 0).encode(given)
    assert not vectors[5].any()
    assert vectors[6].any()
    texts = ["" if item != 6 else "one caption" for item in range(ITEMS)]
    assert np.isfinite(fit_alignment(given, texts, pairs(), TINY, 0).encode(given)).all()  # most steps have no caption


def test_a_fit_is_a_function_of_its_seed_alone() -> None:
    torch.manual_seed(1)
    first = fit()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    np.testing.assert_array_equal(fit(), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not np.array_equal(fit(seed=4), first)


@pytest.mark.parametrize("interrupted_at", [1, 2, 4, 5])
def test_an_interrupted_fit_goes_on_bit_for_bit(tmp_path: Path, interrupted_at: int) -> None:
    class Interrupted(Exception):  # noqa: N818
        pass

    step = AlignmentFit.step

    def failing(self: AlignmentFit, number: int) -> object:
        if number == interrupted_at:
            raise Interrupted
        return step(self, number)

    with patch("tokenizer_job.alignment.training.CHECKPOINT_STEPS", 2):
        with patch.object(AlignmentFit, "step", failing), pytest.raises(Interrupted):
            fit(resume=tmp_path / "fit")
        resumed = fit(resume=tmp_path / "fit")
    np.testing.assert_array_equal(resumed, fit())
    with patch.object(AlignmentFit, "step", failing):  # nothing is left to do
        np.testing.assert_array_equal(fit(resume=tmp_path / "fit"), resumed)


def test_a_checkpoint_of_another_fit_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    fit(resume=tmp_path)
    with pytest.raises(ValueError, match="other settings, seed or data"):
        fit(seed=4, resume=tmp_path)
    with pytest.raises(ValueError, match="other settings, seed or data"):
        fit(TINY, resume=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match="cannot be read"):
        fit(resume=tmp_path)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"one caption .* got 2 for 60 items"):
        AlignmentFit(content(), ["a", "b"], pairs(), TINY, 0)
    none = Pairs(np.empty((0, 2), np.int64), np.empty((0, 2), np.int64))
    with pytest.raises(ValueError, match="needs item pairs with content, got none of 0"):
        AlignmentFit(content(), captions(), none, TINY, 0)
    with pytest.raises(ValueError, match="must not both be 0"):
        AlignmentSettings(contrast_weight=0, caption_weight=0)


def test_the_popularity_correction_acts_on_unequal_items_only() -> None:
    ring = np.stack([np.arange(ITEMS), np.roll(np.arange(ITEMS), 4)], 1)
    star = np.stack([np.arange(1, ITEMS), np.where(np.arange(1, ITEMS) % 2, 0, 1 + np.roll(np.arange(1, ITEMS), 4) % 50)], 1)
    for rows, alike in ((ring, True), (star, False)):
        losses = []
        for correction in (0.0, 1.0):
            settings = TINY.model_copy(update={"popularity_correction": correction})
            losses.append(AlignmentFit(content(), NO_CAPTIONS, Pairs(rows, rows[:0]), settings, 0).step(1).contrast)
        assert (losses[0] == pytest.approx(losses[1], rel=1e-5)) == alike
