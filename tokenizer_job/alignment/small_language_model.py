"""A small causal language model over words, trained alongside the QFormer where no pretrained one is given.

Shape legend: B items, T caption tokens, Q prefix positions, W width, V vocabulary.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.policy.layers import EncoderLayer, FeedForward

WORD = re.compile(r"\w+|[^\w\s]")
MOST_WORDS = 4096
END, UNKNOWN = 0, 1
WIDTH, HEADS, LAYERS, FFN = 128, 4, 2, 512


class SmallLanguageModel(nn.Module):
    """A pre-norm transformer with one table for reading and telling words.

    Its words are the most frequent ones of the captions given that occur at least twice; all others are one unknown word.
    """

    width = WIDTH

    def __init__(self, captions: Sequence[str], length: int) -> None:
        super().__init__()
        counts = Counter(word for text in captions for word in _words(text))
        frequent = sorted((word for word, count in counts.items() if count > 1), key=lambda word: (-counts[word], word))
        self.ids = {word: number for number, word in enumerate(frequent[: MOST_WORDS - 2], 2)}
        self.words = nn.Parameter(torch.randn(len(self.ids) + 2, WIDTH) * WIDTH**-0.5)
        self.positions = nn.Parameter(torch.randn(length, WIDTH) * WIDTH**-0.5)
        self.layers = nn.ModuleList(EncoderLayer(WIDTH, HEADS, FeedForward(WIDTH, FFN), 0.0) for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH, eps=1e-6)

    def token_ids(self, text: str) -> list[int]:
        """A text's lower-case words and punctuation marks, then the end token."""
        return [self.ids.get(word, UNKNOWN) for word in _words(text)] + [END]

    def forward(self, prefix: Tensor, tokens: Tensor) -> Tensor:
        """Prefix (B, Q, W), T - 1 tokens (B, T - 1) -> logits (B, T, V)."""
        count = tokens.shape[1]
        hidden = torch.cat((prefix, functional.embedding(tokens, self.words) + self.positions[:count]), 1)
        mask = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool, device=hidden.device).tril()
        for layer in self.layers:
            hidden = layer(hidden, mask)
        logits: Tensor = self.norm(hidden[:, -count - 1 :]) @ self.words.T
        return logits


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())
