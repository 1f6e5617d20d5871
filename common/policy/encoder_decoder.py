"""OneRec V1: an encoder over the user's four pathways and a point-wise decoder over semantic IDs.

Shape legend: R contexts, S encoder positions, T targets per context, K levels, V codes per level, B beams, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.features import PolicyInputs
from common.policy.layers import DecoderLayer, EncoderLayer, KeysValues, table
from common.policy.pathways import CodeTables, EventEmbedding, LifelongQueries, PathwayMlp
from common.settings import PolicySettings


@dataclass(frozen=True, slots=True)
class Memory:
    """The encoded context: keys and values of every decoder layer's cross-attention, computed once per context."""

    keys_values: list[KeysValues]
    mask: Tensor  # (R, 1, 1, S), True where visible


Cache = list[KeysValues]


class EncoderDecoder(nn.Module):
    """The V1 policy. All log-probabilities come from one fp32 softmax per level, without temperature or mask."""

    def __init__(self, policy: PolicySettings) -> None:
        super().__init__()
        width, dropout = policy.d_model, policy.dropout
        self.settings = policy
        self.codes = CodeTables(policy.levels, policy.codes, width)
        self.event = EventEmbedding(policy, self.codes)
        self.user = table(policy.user_buckets, policy.static_width)
        self.static = table(policy.static_buckets, policy.static_width)
        self.static_mlp = PathwayMlp(policy.static_width * (1 + len(policy.static_fields)), width)
        self.short_mlp = PathwayMlp(self.event.width, width)
        self.positive_mlp = PathwayMlp(self.event.width, width)
        self.static_position = nn.Parameter(torch.randn(1, width) * 0.02)
        self.short_position = nn.Parameter(torch.randn(policy.short_length, width) * 0.02)
        self.positive_position = nn.Parameter(torch.randn(policy.positive_length, width) * 0.02)
        if policy.lifelong_length:
            self.lifelong_mlp = PathwayMlp(self.event.width, width)
            self.lifelong = LifelongQueries(policy)
        self.dropout = nn.Dropout(dropout)
        layer = (width, policy.heads, policy.ffn, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(policy.encoder_layers))
        self.encoder_norm = nn.RMSNorm(width, eps=1e-6)
        self.begin = nn.Parameter(torch.randn(width) * 0.02)
        self.level = nn.Parameter(torch.randn(policy.levels, width) * 0.02)
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(policy.decoder_layers))
        self.decoder_norm = nn.RMSNorm(width, eps=1e-6)

    def encode(self, inputs: PolicyInputs) -> Memory:
        """Encode R contexts once; the result serves any number of targets or beams."""
        static = torch.cat((self.user(inputs.static[:, :1]), self.static(inputs.static[:, 1:])), 1)
        parts = [
            self.static_mlp(static.flatten(1)).unsqueeze(1) + self.static_position,
            self.short_mlp(self.event(inputs.short)) + self.short_position[: inputs.short.mask.shape[1]],
            self.positive_mlp(self.event(inputs.positive)) + self.positive_position[: inputs.positive.mask.shape[1]],
        ]
        present = inputs.static.new_ones((len(inputs.static), 1), dtype=torch.bool)
        masks = [present, inputs.short.mask, inputs.positive.mask]
        if self.settings.lifelong_length:
            assert inputs.lifelong is not None
            events = self.lifelong_mlp(self.event(inputs.lifelong))
            parts.append(self.lifelong(events, inputs.lifelong.mask, inputs.lifelong.leaf_size))
            masks.append(present.expand(-1, self.settings.lifelong_queries))
        mask = torch.cat(masks, 1)[:, None, None, :]
        hidden = self.dropout(torch.cat(parts, 1))
        for layer in self.encoder:
            hidden = layer(hidden, mask)
        hidden = self.encoder_norm(hidden)
        return Memory([layer.cross_attention.keys_values(hidden) for layer in self._decoder_layers()], mask)

    def logits(self, memory: Memory, codes: Tensor) -> Tensor:
        """Teacher-forced fp32 logits (R, T, K, V) of targets (R, T, K); inputs are [BOS, s1, …, s(K-1)]."""
        inputs = [self.begin.expand(*codes.shape[:2], -1)]
        inputs += [self.codes.embed(k, codes[..., k]) for k in range(self.settings.levels - 1)]
        hidden = self.dropout(torch.stack(inputs, 2) + self.level)
        for layer, keys_values in zip(self._decoder_layers(), memory.keys_values, strict=True):
            hidden = layer(hidden, keys_values, memory.mask)
        return torch.einsum("rtkd,kvd->rtkv", self.decoder_norm(hidden), self.codes.weight).float()

    def log_probs(self, memory: Memory, codes: Tensor) -> Tensor:
        """log pi of each level of each target: codes (R, T, K) -> (R, T, K), fp32."""
        return self.logits(memory, codes).log_softmax(-1).gather(-1, codes.unsqueeze(-1)).squeeze(-1)

    def step(self, memory: Memory, previous: Tensor | None, cache: Cache) -> tuple[Tensor, Cache]:
        """One level for all beams: the previous level's codes (R, B), or None at level 1 -> fp32 logits (R, B, V)."""
        level = cache[0][0].shape[-2] if cache else 0
        begin = self.begin.expand(len(memory.mask), 1, -1)
        token = begin if previous is None else self.codes.embed(level - 1, previous)
        hidden = (token + self.level[level]).unsqueeze(2)
        grown: Cache = []
        for k, layer in enumerate(self._decoder_layers()):
            hidden, own = layer.step(hidden, cache[k] if cache else None, memory.keys_values[k], memory.mask)
            grown.append(own)
        return (self.decoder_norm(hidden.squeeze(2)) @ self.codes.weight[level].T).float(), grown

    def _decoder_layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]
