"""What every architecture of the policy has in common: tables, context features, decoding and its probabilities.

An architecture is one file with a subclass of `Policy`: how a context becomes a `Memory`, which blocks decode, and which
heads read the result. Shape legend: R contexts, S context positions, T targets per context, K levels, V codes per level,
B beams, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.features import PolicyInputs
from common.policy.layers import DecoderBlock, KeysValues, table
from common.policy.moe import present_tokens
from common.policy.pathways import CodeTables, EventEmbedding
from common.settings import PolicySettings


@dataclass(frozen=True, slots=True)
class Memory:
    """The encoded context: what every decoder block attends to, computed once per context.

    Blocks may share keys and values; none of them is copied per target or beam.
    """

    keys_values: list[KeysValues]  # one pair per block
    mask: Tensor  # (R, 1, 1, S), True where visible, or an additive float bias
    begin: Tensor  # (R, 1, D), what is decoded first


Cache = list[KeysValues]
"""Keys and values of the positions decoded so far, one pair per block."""


def positions(cache: Cache) -> int:
    """How many positions have been decoded."""
    return cache[0][0].shape[-2] if cache else 0


class Policy(nn.Module, ABC):
    """A generative policy. All log-probabilities come from one fp32 softmax per level, without temperature or mask."""

    def __init__(self, policy: PolicySettings, code_width: int, side_by_side: bool = False) -> None:
        """``code_width``: of the code tables, which history items, decoder inputs and perhaps the heads share;
        ``side_by_side``: whether a history item's embeddings are concatenated, or summed."""
        super().__init__()
        self.settings = policy
        self.codes = CodeTables(policy.levels, policy.codes, code_width)
        self.event = EventEmbedding(policy, self.codes, side_by_side)
        self.user = table(policy.user_buckets, policy.static_width, sparse=True)
        self.static = table(policy.static_buckets, policy.static_width, sparse=True)
        self.static_features_width = policy.static_width * (1 + len(policy.static_fields))
        self.begin = nn.Parameter(torch.randn(policy.d_model) * 0.02)
        self.level = nn.Parameter(torch.randn(policy.levels, policy.d_model) * 0.02)
        self.dropout = nn.Dropout(policy.dropout)

    @abstractmethod
    def encode(self, inputs: PolicyInputs) -> Memory:
        """Encode R contexts once; the result serves any number of targets or beams."""

    @property
    @abstractmethod
    def blocks(self) -> list[DecoderBlock]:
        """The decoder, first block first."""

    @abstractmethod
    def embed(self, level: int, codes: Tensor) -> Tensor:
        """Codes (…) of one level as the decoder reads them (…, D)."""

    @abstractmethod
    def head(self, level: int, hidden: Tensor) -> Tensor:
        """Decoder output (…, D) at one level -> logits (…, V) of the level's code."""

    def static_features(self, inputs: PolicyInputs) -> Tensor:
        """Embeddings of the user id and the profile fields, side by side (R, F * width)."""
        return torch.cat((self.user(inputs.static[:, :1]), self.static(inputs.static[:, 1:])), 1).flatten(1)

    def logits(self, memory: Memory, codes: Tensor, present: Tensor | None = None) -> Tensor:
        """Teacher-forced fp32 logits (R, T, K, V) of targets (R, T, K); inputs are [BOS, s1, …, s(K-1)].

        ``present`` (R, T) is True where a target is no padding: only there do tokens count as load of experts.
        """
        levels = range(self.settings.levels)
        inputs = [memory.begin.expand(-1, codes.shape[1], -1)]
        inputs += [self.embed(k, codes[..., k]) for k in levels[:-1]]
        hidden = self.dropout(torch.stack(inputs, 2) + self.level)
        with present_tokens(present):
            for block, keys_values in zip(self.blocks, memory.keys_values, strict=True):
                hidden = block(hidden, keys_values, memory.mask)
        return torch.stack([self.head(k, hidden[..., k, :]) for k in levels], -2).float()

    def log_probs(self, memory: Memory, codes: Tensor, present: Tensor | None = None) -> Tensor:
        """log pi of each level of each target: codes (R, T, K) -> (R, T, K), fp32; ``present`` as in `logits`."""
        return gather_codes(self.logits(memory, codes, present), codes)

    def session_logits(self, memory: Memory, codes: Tensor, present: Tensor | None = None) -> Tensor:
        """As `logits`, of items (R, T, K) that were shown together, in their order; independent to a point-wise policy."""
        return self.logits(memory, codes, present)

    def session_log_probs(self, memory: Memory, codes: Tensor, present: Tensor | None = None) -> Tensor:
        """log pi of items that were shown together (R, T, K) -> (R, T, K), fp32: what is trained.

        `log_probs` is that of candidates for the next item.
        """
        return gather_codes(self.session_logits(memory, codes, present), codes)

    def step(self, memory: Memory, previous: Tensor | None, cache: Cache) -> tuple[Tensor, Cache]:
        """One level for all beams: the previous level's codes (R, B), or None at level 1 -> decoder output (R, B, D), of
        which the level's `head` makes logits."""
        level = positions(cache)
        token = memory.begin if previous is None else self.embed(level - 1, previous)
        return self.advance(memory, token + self.level[level], cache)

    def advance(self, memory: Memory, token: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """One position (R, B, D) through all blocks -> their output (R, B, D) and the grown cache."""
        hidden = token.unsqueeze(2)
        grown: Cache = []
        for k, block in enumerate(self.blocks):
            hidden, own = block.step(hidden, cache[k] if cache else None, memory.keys_values[k], memory.mask)
            grown.append(own)
        return hidden.squeeze(2), grown


def gather_codes(logits: Tensor, codes: Tensor) -> Tensor:
    """Log-probabilities (…) that softmaxes of logits (…, V) give to codes (…)."""
    return logits.log_softmax(-1).gather(-1, codes.unsqueeze(-1)).squeeze(-1)
