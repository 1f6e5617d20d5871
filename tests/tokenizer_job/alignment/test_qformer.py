"""QFormer: shapes, padding, items without content, the printed form, and where training begins."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from common.settings import AlignmentSettings
from tokenizer_job.alignment.qformer import LiteralBlock, QFormer

SMALL = AlignmentSettings(width=16, queries=3, layers=2, heads=2)
FORMS = [SMALL, SMALL.model_copy(update={"literal": True})]


def content(items: int, tokens: int, width: int = 10) -> torch.Tensor:
    return torch.randn(items, tokens, width, generator=torch.Generator().manual_seed(0))


def build(settings: AlignmentSettings, inputs: int = 10) -> QFormer:
    torch.manual_seed(0)
    return QFormer(settings, inputs).eval()


@pytest.mark.parametrize("settings", FORMS)
@pytest.mark.parametrize("inputs", [10, 16])
def test_shapes(settings: AlignmentSettings, inputs: int) -> None:
    tokens, mask = content(5, 4, inputs), torch.ones(5, 4, dtype=torch.bool)
    qformer = build(settings, inputs)
    assert qformer(tokens, mask).shape == (5, 3, 16)
    vectors = qformer.vectors(tokens, mask)
    assert vectors.shape == (5, 48)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("settings", FORMS)
def test_padding_changes_nothing(settings: AlignmentSettings) -> None:
    qformer, tokens = build(settings), content(5, 4)
    counts = torch.tensor([1, 2, 4, 3, 1])
    mask = torch.arange(4) < counts[:, None]
    together = qformer(tokens, mask)
    for row, count in enumerate(counts):
        alone = qformer(tokens[row : row + 1, :count], mask[row : row + 1, :count])
        torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(qformer(torch.where(mask[..., None], tokens, 1e3), mask), together, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("settings", FORMS)
def test_an_item_without_content_is_zero_and_trains_without_nan(settings: AlignmentSettings) -> None:
    qformer, tokens = build(settings), content(3, 2)
    mask = torch.tensor([[True, True], [False, False], [True, False]])
    vectors = qformer.vectors(tokens, mask)
    assert not vectors[1].any()
    assert vectors[0].any()
    vectors.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in qformer.parameters() if parameter.grad is not None)


def test_the_printed_form_is_computed_as_printed() -> None:
    """Q = CrossAttn(Q, M, M); Q = FFN(RMSNorm(Q)), here with one token: attention gives its value, whatever the query."""
    qformer, tokens = build(FORMS[1].model_copy(update={"layers": 1})), content(2, 1)
    block = qformer.blocks[0]
    assert isinstance(block, LiteralBlock)
    read = block.attention.output(block.attention.value(qformer.content(tokens)))
    expected = block.ffn.down(functional.gelu(block.ffn.up(block.norm(read)))).expand(-1, 3, -1)
    torch.testing.assert_close(qformer(tokens, torch.ones(2, 1, dtype=torch.bool)), expected, atol=1e-6, rtol=1e-5)


def test_training_begins_at_the_whitened_content() -> None:
    spread = torch.linspace(1.0, 5.0, 10)
    tokens = content(400, 1) * spread + 3.0
    qformer = build(SMALL)
    qformer.start_at(tokens.flatten(0, 1))
    vectors = qformer.vectors(tokens, torch.ones(400, 1, dtype=torch.bool))
    white = functional.normalize(((tokens - 3.0) / spread)[:, 0])
    likeness, expected = vectors @ vectors.T, white @ white.T
    assert torch.corrcoef(torch.stack((likeness.flatten(), expected.flatten())))[0, 1] > 0.9


@pytest.mark.parametrize("tokens", [content(1, 1), content(3, 1), content(30, 1, 40)])
def test_training_can_begin_at_few_or_wide_tokens(tokens: torch.Tensor) -> None:
    qformer = build(SMALL, tokens.shape[2])
    qformer.start_at(tokens.flatten(0, 1))
    assert qformer.vectors(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)).isfinite().all()


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"alignment.heads must divide alignment.width, got 3 and 16"):
        AlignmentSettings(width=16, heads=3)
