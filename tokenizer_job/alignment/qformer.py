"""QFormer: a few learned queries read an item's content tokens (OneRec technical report, section "Tokenizer").

Shape legend: B items, M content tokens, Q queries, D width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.policy.layers import Attention, FeedForward, QueryBlock, linear
from common.settings import AlignmentSettings

FFN_RATIO = 4
SHRINKAGE = 0.03


class QFormer(nn.Module):
    """Content tokens of any number -> a fixed number of vectors.

    The report prints Q = CrossAttn(Q, M, M); Q = FFN(RMSNorm(Q)) per layer (``literal``). By default each of the two is a
    pre-norm residual step, and the content tokens are normalised once.
    """

    def __init__(self, settings: AlignmentSettings, inputs: int) -> None:
        super().__init__()
        width = settings.width
        self.content = linear(inputs, width, bias=True)
        self.norm = nn.Identity() if settings.literal else nn.RMSNorm(width, eps=1e-6)
        self.queries = nn.Parameter(torch.randn(settings.queries, width) * 0.02)
        self.blocks = nn.ModuleList(_block(settings) for _ in range(settings.layers))

    @torch.no_grad()
    def start_at(self, tokens: Tensor) -> None:
        """Initialise so that items begin as like each other as their whitened content tokens (T, inputs) are.

        The content projection becomes the tokens' principal components of equal variance; the queries begin by taking
        over what they read first, but for a rotation, and all later steps by adding nothing. (The literal form, where
        nothing is added, takes the projection only.)
        """
        mean, components = _whitening(tokens, self.queries.shape[1])
        self.content.weight.zero_()
        self.content.weight[: len(components)] = components
        self.content.bias.copy_(-self.content.weight @ mean)
        for number, block in enumerate(self.blocks):
            if isinstance(block, QueryBlock):
                nn.init.orthogonal_(block.attention.value.weight)
                nn.init.orthogonal_(block.attention.output.weight, 0.0 if number else 1.0)
                nn.init.zeros_(block.ffn.down.weight)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, M, inputs), mask (B, M) True where there is one -> (B, Q, D); zero for an item without any token."""
        present = mask.any(1)
        memory = self.norm(self.content(tokens))
        visible = (mask | ~present[:, None])[:, None, None, :]  # attending to nothing is undefined
        hidden = self.queries.expand(len(tokens), -1, -1)
        for block in self.blocks:
            hidden = block(hidden, memory, visible)
        return hidden * present[:, None, None]

    def vectors(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The queries of each item side by side, of length 1 (B, Q * D); zero for an item without any token."""
        return functional.normalize(self(tokens, mask).flatten(1))


class LiteralBlock(nn.Module):
    """A layer as the report prints it: nothing is added to what was there, and attention reads unnormalised queries."""

    def __init__(self, settings: AlignmentSettings) -> None:
        super().__init__()
        width = settings.width
        self.attention = Attention(width, settings.heads)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.ffn = FeedForward(width, FFN_RATIO * width)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, hidden: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Queries (B, Q, D) over memory (B, M, D), mask (B, 1, 1, M) True where visible."""
        hidden = self.attention.attend(hidden, self.attention.keys_values(memory), mask)
        return cast(Tensor, self.dropout(self.ffn(self.norm(hidden))))


def _block(settings: AlignmentSettings) -> nn.Module:
    if settings.literal:
        return LiteralBlock(settings)
    return QueryBlock(settings.width, settings.heads, FFN_RATIO * settings.width, settings.dropout)


def _whitening(tokens: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Mean (inputs,) and at most ``width`` principal directions (., inputs), each over its standard deviation."""
    centred = tokens.double() - tokens.double().mean(0)
    variance, directions = torch.linalg.eigh(centred.T @ centred / len(tokens))  # ascending
    variance, directions = variance.flip(0)[:width].clamp(min=0), directions.flip(1).T[:width]
    scale = (variance + SHRINKAGE * variance.mean()).clamp(min=1e-8).rsqrt()  # one token alone has no variance
    return tokens.mean(0), (directions * scale[:, None]).float()
