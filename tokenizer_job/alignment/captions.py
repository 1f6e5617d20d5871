"""Captions and the decoder that must tell them from an item's vectors: what keeps aligned vectors true to the content.

Shape legend: B items, T caption tokens, Q prefix positions, D vector width, W language model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.messages import Item
from common.policy.layers import linear
from common.settings import AlignmentSettings
from tokenizer_job.alignment.frozen_language_model import FrozenLanguageModel
from tokenizer_job.alignment.small_language_model import SmallLanguageModel

PADDING = -1


class LanguageModel(Protocol):
    """A causal language model that continues a prefix of vectors."""

    width: int

    def token_ids(self, text: str) -> list[int]:
        """A text's tokens, an end token last where the model has one."""

    def __call__(self, prefix: Tensor, tokens: Tensor) -> Tensor:
        """Prefix (B, Q, W), T - 1 tokens (B, T - 1) -> logits (B, T, V) of T tokens, the first from the prefix alone."""


def caption(item: Item) -> str:
    """An item's title and category, empty where it has neither."""
    return ". ".join(part for part in (item.title.strip(), item.category.strip()) if part)


class CaptionDecoder(nn.Module):
    """An item's vectors, projected, are the prefix of a language model (OneRec technical report, section "Tokenizer").

    The language model is a small one that is trained alongside, its words those of the ``captions`` given, or a
    pretrained one that stays as it is (``settings.caption_model``).

    Raises:
        ValueError: the pretrained model cannot be loaded.
    """

    def __init__(self, settings: AlignmentSettings, captions: Sequence[str]) -> None:
        super().__init__()
        self.model: LanguageModel = (
            FrozenLanguageModel(settings.caption_model)
            if settings.caption_model
            else SmallLanguageModel(captions, settings.caption_tokens)
        )
        self.project = linear(settings.width, self.model.width, bias=True)
        self.length = settings.caption_tokens

    def token_ids(self, captions: Sequence[str]) -> Tensor:
        """(B, T) token ids, cut to the settings' length or padded with `PADDING`; an empty caption has none at all."""
        rows = [self.model.token_ids(text)[: self.length] if text.strip() else [] for text in captions]
        return torch.tensor([row + [PADDING] * (self.length - len(row)) for row in rows]).view(len(rows), self.length)

    def forward(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """Mean negative log-likelihood (nats) per token of captions (B, T) given their items' vectors (B, Q, D)."""
        tokens = tokens[:, : max(1, int((tokens != PADDING).sum(1).max()))]
        logits = self.model(self.project(vectors), tokens[:, :-1].clamp(min=0))
        return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), ignore_index=PADDING)
