"""OneRec V1: an encoder over the user's four pathways and a point-wise decoder over semantic IDs.

Shape legend: R contexts, S encoder positions, K levels, V codes per level, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from common.features import EventFeatures, PolicyInputs
from common.policy.layers import DecoderBlock, DecoderLayer, EncoderLayer, FeedForward, product
from common.policy.moe import mixture_at, present_tokens
from common.policy.pathways import LifelongQueries, PathwayMlp
from common.policy.policy import Memory, Policy
from common.settings import PolicySettings


class EncoderDecoder(Policy):
    """The V1 policy: bidirectional encoder, decoder with self- and cross-attention, heads tied to the code tables."""

    def __init__(self, policy: PolicySettings) -> None:
        super().__init__(policy, code_width=policy.d_model)
        width = policy.d_model
        self.static_mlp = PathwayMlp(self.static_features_width, width)
        self.short_mlp = PathwayMlp(self.event.width, width)
        self.positive_mlp = PathwayMlp(self.event.width, width)
        self.static_position = nn.Parameter(torch.randn(1, width) * 0.02)
        self.short_position = nn.Parameter(torch.randn(policy.short_length, width) * 0.02)
        self.positive_position = nn.Parameter(torch.randn(policy.positive_length, width) * 0.02)
        if policy.lifelong_length:
            self.lifelong_mlp = PathwayMlp(self.event.width, width)
            self.lifelong = LifelongQueries(policy)

        def ffn(stack: Literal["encoder", "decoder"], block: int) -> nn.Module:
            return mixture_at(policy, stack, block) or FeedForward(width, policy.ffn)

        self.encoder = nn.ModuleList(
            EncoderLayer(width, policy.heads, ffn("encoder", k), policy.dropout) for k in range(policy.encoder_layers)
        )
        self.encoder_norm = nn.RMSNorm(width, eps=1e-6)
        self.decoder = nn.ModuleList(
            DecoderLayer(width, policy.heads, ffn("decoder", k), policy.dropout) for k in range(policy.decoder_layers)
        )
        self.decoder_norm = nn.RMSNorm(width, eps=1e-6)

    @property
    def blocks(self) -> list[DecoderBlock]:
        """The decoder, first block first."""
        return list(self._decoder_layers())

    def encode(self, inputs: PolicyInputs) -> Memory:
        """Encode R contexts once; the result serves any number of targets or beams."""
        parts = [
            self.static_mlp(self.static_features(inputs)).unsqueeze(1) + self.static_position,
            self._short_term(inputs.short) + self.short_position[: inputs.short.mask.shape[1]],
            self.positive_mlp(self.event(inputs.positive)) + self.positive_position[: inputs.positive.mask.shape[1]],
        ]
        present = inputs.static.new_ones((len(inputs.static), 1), dtype=torch.bool)
        masks = [present, inputs.short.mask, inputs.positive.mask]
        if self.settings.lifelong_length:
            assert inputs.lifelong is not None
            events = self.lifelong_mlp(self.event(inputs.lifelong))
            parts.append(self.lifelong(events, inputs.lifelong.mask, inputs.lifelong.leaf_size))
            masks.append(present.expand(-1, self.settings.lifelong_queries))
        visible = torch.cat(masks, 1)
        mask = visible[:, None, None, :]
        hidden = self.dropout(torch.cat(parts, 1))
        with present_tokens(visible):
            for layer in self.encoder:
                hidden = layer(hidden, mask)
        hidden = self.encoder_norm(hidden)
        begin = self.begin.expand(len(hidden), 1, -1)
        if self.settings.item_path:
            begin = begin + _newest(hidden, inputs.short.mask)
        return Memory([layer.cross_attention.keys_values(hidden) for layer in self._decoder_layers()], mask, begin)

    def _short_term(self, events: EventFeatures) -> Tensor:
        """The pathway's MLP (R, L, D); with the item path the item, first of its features, goes around it."""
        features = self.event(events)
        hidden: Tensor = self.short_mlp(features)
        return hidden + features[..., : hidden.shape[-1]] if self.settings.item_path else hidden

    def embed(self, level: int, codes: Tensor) -> Tensor:
        """Codes (…) of one level as the decoder reads them (…, D)."""
        return self.codes.embed(level, codes)

    def head(self, level: int, hidden: Tensor) -> Tensor:
        """Decoder output (…, D) at one level -> logits (…, V), by the level's code table."""
        return product(self.decoder_norm(hidden), self.codes.weight[level])

    def _decoder_layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]


def _newest(hidden: Tensor, events: Tensor) -> Tensor:
    """The encoding (R, 1, D) of each context's newest short-term event, or of the user where ``events`` (R, L) has none."""
    user = hidden[:, :1]
    return torch.where(events[:, :1, None], hidden[:, 1:2], user) if events.shape[1] else user
