"""A context's four pathways (OneRec technical report, section 2.2): user static, short-term, positive feedback, lifelong.

Embedding tables are shared by the pathways; in an encoder every pathway has its own MLP.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.features import BUCKETS, LABEL_BITS, EventFeatures
from common.policy.layers import QueryBlock, linear, table
from common.settings import PolicySettings


class PathwayMlp(nn.Module):
    """Dense(LeakyReLU(Dense(.)))."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.first = linear(inputs, width, bias=True)
        self.second = linear(width, width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) -> (…, D)."""
        out: Tensor = self.second(functional.leaky_relu(self.first(x), 0.01))
        return out


class CodeTables(nn.Module):
    """One embedding table per semantic-ID level, shared by history items, decoder inputs and output heads."""

    def __init__(self, levels: int, codes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(levels, codes, width) * 0.02)

    def embed(self, level: int, codes: Tensor) -> Tensor:
        """Embeddings (…, D) of codes (…) of one level."""
        return functional.embedding(codes, self.weight[level])

    def all_levels(self, shifted: Tensor) -> Tensor:
        """(…, K) of codes + 1, 0 for an unknown item -> the level embeddings (…, K, D), zero if unknown."""
        levels, codes, _ = self.weight.shape
        rows = (shifted - 1).clamp(min=0) + torch.arange(levels, device=shifted.device) * codes
        return functional.embedding(rows, self.weight.flatten(0, 1)) * (shifted > 0).unsqueeze(-1)


class EventEmbedding(nn.Module):
    """Feature groups of one history position, concatenated: [item; author; tag; time; play; duration; labels].

    The item is the sum of its id's and its codes' embeddings, or all of them side by side (``side_by_side``).
    """

    def __init__(self, policy: PolicySettings, codes: CodeTables, side_by_side: bool) -> None:
        super().__init__()
        levels, _, code_width = codes.weight.shape
        self.settings, self.codes, self.side_by_side = policy, codes, side_by_side
        self.width = code_width * (policy.vid_input + levels * policy.sid_input if side_by_side else 1)
        if policy.vid_input:
            self.vid = table(policy.item_buckets, code_width, sparse=True)
        if policy.side_inputs:
            width = policy.feature_width
            self.author = table(policy.author_buckets, policy.author_width or width, sparse=True)
            self.tag = table(policy.tag_buckets, width, sparse=True)
            self.age = table(BUCKETS, width)
            self.hour = table(25, width)
            self.weekday = table(8, width)
            self.play = table(BUCKETS, width)
            self.duration = table(BUCKETS, width)
            self.label = nn.Parameter(torch.randn(LABEL_BITS, width) * 0.02)
            self.width += (policy.author_width or width) + 5 * width

    def forward(self, e: EventFeatures) -> Tensor:
        """Event features (R, L) -> (R, L, self.width)."""
        return torch.cat([self.item(e.vid, e.sids), *(self._side(e) if self.settings.side_inputs else ())], -1)

    def item(self, vid: Tensor, sids: Tensor) -> Tensor:
        """Rows of the id table (…) and codes + 1 (…, K) of items -> what is known of them (…, item width)."""
        parts = [self.vid(vid)] if self.settings.vid_input else []
        if self.settings.sid_input:
            levels = self.codes.all_levels(sids)
            parts.append(levels.flatten(-2) if self.side_by_side else levels.sum(-2))
        return torch.cat(parts, -1) if self.side_by_side else reduce(torch.add, parts)

    def _side(self, e: EventFeatures) -> list[Tensor]:
        tag = (self.tag(e.tags) * e.tag_weight.unsqueeze(-1)).sum(-2)
        bits = (e.labels.unsqueeze(-1) >> torch.arange(LABEL_BITS, device=e.labels.device)) & 1
        time = self.age(e.age) + self.hour(e.hour) + self.weekday(e.weekday)
        labels = bits.to(self.label.dtype) @ self.label
        return [self.author(e.author), tag, time, self.play(e.play), self.duration(e.duration), labels]


class LifelongQueries(nn.Module):
    """Learnable queries that read the compressed lifelong history: N blocks of cross-attention and FFN."""

    def __init__(self, policy: PolicySettings) -> None:
        super().__init__()
        width = policy.d_model
        self.queries = nn.Parameter(torch.randn(policy.lifelong_queries, width) * 0.02)
        self.empty = nn.Parameter(torch.randn(1, width) * 0.02)
        self.blocks = nn.ModuleList(
            QueryBlock(width, policy.heads, policy.ffn, policy.dropout) for _ in range(policy.lifelong_blocks)
        )

    def forward(self, events: Tensor, mask: Tensor, leaf_size: Tensor) -> Tensor:
        """Events (R, L, D), mask (R, L), leaf sizes (R, L) -> (R, queries, D).

        A leaf of n events gets ln n on its attention logit, which equals attending to n copies of it. A learned token
        stands at the end, so that a user with no events still has something to attend to.
        """
        rows = events.shape[0]
        memory = torch.cat((events, self.empty.expand(rows, 1, -1)), 1)
        bias = torch.where(mask, leaf_size.clamp(min=1).log(), float("-inf"))
        bias = functional.pad(bias, (0, 1))[:, None, None, :].to(memory.dtype)
        hidden = self.queries.expand(rows, -1, -1)
        for block in self.blocks:
            hidden = block(hidden, memory, bias)
        return hidden
