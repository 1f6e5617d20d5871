"""Caption decoders: the small trained one and a frozen pretrained one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.messages import Item
from tests.tokenizer_job.alignment.worlds import TINY, captions, content, pairs
from tokenizer_job.alignment.captions import PADDING, CaptionDecoder, caption
from tokenizer_job.alignment.small_language_model import END, UNKNOWN
from tokenizer_job.alignment.training import AlignmentFit

UNKNOWN_WORD, END_WORD = "<unk>", "</s>"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaMA with a word tokenizer, saved as Hugging Face saves them."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("llama")
    words = sorted({word for text in captions() for word in text.split()})
    vocabulary = {word: number for number, word in enumerate([UNKNOWN_WORD, END_WORD, *words])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=UNKNOWN_WORD))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": UNKNOWN_WORD, "eos_token": END_WORD}
    transformers.PreTrainedTokenizerFast(tokenizer_object=model, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def frozen(folder: Path) -> CaptionDecoder:
    return CaptionDecoder(TINY.model_copy(update={"caption_model": str(folder)}), [])


def small() -> CaptionDecoder:
    torch.manual_seed(0)
    return CaptionDecoder(TINY, captions())


def vectors(items: int) -> torch.Tensor:
    return torch.randn(items, TINY.queries, TINY.width, generator=torch.Generator().manual_seed(0))


def test_a_caption_is_title_and_category() -> None:
    assert caption(Item(item_id=1, title="Red polish ", category="Nails")) == "Red polish. Nails"
    assert caption(Item(item_id=1, category="Nails")) == "Nails"
    assert caption(Item(item_id=1)) == ""


def test_token_ids_are_cut_padded_or_absent() -> None:
    ids = small().token_ids(["Nail polish", "", "polish unheard polish polish polish polish polish polish"])
    assert ids.shape == (3, TINY.caption_tokens)
    assert ids[0, 2] == END
    assert (ids[0, 3:] == PADDING).all()
    assert (ids[1] == PADDING).all()
    assert ids[2, 1] == UNKNOWN
    assert (ids[2] != PADDING).all()
    assert small().token_ids([]).shape == (0, TINY.caption_tokens)


@pytest.mark.parametrize("kind", ["small", "frozen"])
def test_the_loss_is_the_mean_over_tokens_told_from_what_is_before(kind: str, llama: Path) -> None:
    decoder = (small() if kind == "small" else frozen(llama)).eval()
    tokens = decoder.token_ids(["nail polish red no. 1", "nail polish", "polish"])
    loss = decoder(vectors(3), tokens)
    total = 0.0
    for row in range(3):
        known = tokens[row][tokens[row] != PADDING]
        for k in range(len(known)):
            logits = decoder.model(decoder.project(vectors(3)[row : row + 1]), known[None, :k])
            total -= logits[0, -1].log_softmax(-1)[known[k]].item()
    assert loss.item() == pytest.approx(total / int((tokens != PADDING).sum()), rel=1e-4)


@pytest.mark.parametrize("kind", ["small", "frozen"])
def test_the_loss_depends_on_the_item(kind: str, llama: Path) -> None:
    decoder = small() if kind == "small" else frozen(llama)
    given = vectors(2).requires_grad_()
    decoder(given, decoder.token_ids(["nail polish red", ""])).backward()
    assert given.grad is not None
    assert given.grad[0].any()
    assert not given.grad[1].any()


def test_gradients_reach_the_queries_through_a_frozen_model_that_stays_as_it_is(llama: Path) -> None:
    settings = TINY.model_copy(update={"caption_model": str(llama), "contrast_weight": 0.0, "steps": 3})
    fit = AlignmentFit(content(), captions(), pairs(), settings, seed=0)
    assert fit.decoder is not None
    before = {name: value.clone() for name, value in fit.decoder.model.state_dict().items()}  # type: ignore[attr-defined]
    queries, project = fit.qformer.queries.detach().clone(), fit.decoder.project.weight.detach().clone()
    for number in (1, 2, 3):
        fit.step(number)
    assert fit.qformer.queries.grad is not None
    assert fit.qformer.queries.grad.any()
    assert not torch.equal(fit.qformer.queries, queries)
    assert not torch.equal(fit.decoder.project.weight, project)
    after = fit.decoder.model.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_frozen_model_is_resumed_without_being_stored(llama: Path, tmp_path: Path) -> None:
    settings = TINY.model_copy(update={"caption_model": str(llama)})
    whole = AlignmentFit(content(), captions(), pairs(), settings, 0).run(lambda _: None, tmp_path).encode(content())
    assert (tmp_path / "alignment.safetensors").stat().st_size < 1 << 20
    again = AlignmentFit(content(), captions(), pairs(), settings, 0).run(lambda _: None, tmp_path).encode(content())
    np.testing.assert_array_equal(again, whole)


def test_a_missing_library_or_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"alignment.caption_model must be a model's folder with its config.json"):
        frozen(tmp_path / "absent")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'onerec-online\[captions\]'"):
        frozen(tmp_path)


def test_a_model_without_safetensors_is_refused(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    with pytest.raises(ValueError, match="cannot be loaded"):
        frozen(tmp_path)
