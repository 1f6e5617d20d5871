"""OneRec-V2: a decoder that reads its context lazily (OneRec-V2 technical report, section 2.2).

There is no encoder: one linear map turns every context element into keys and values, which the decoder's blocks share
without projections of their own. A training step costs what its targets cost. Shape legend: R contexts, S context
positions, T targets or beams, K levels or decoder positions, G groups of heads, H heads, E head width, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.features import EventFeatures, PolicyInputs
from common.policy.layers import Attention, DecoderBlock, KeysValues, Residual, SwiGlu, linear
from common.policy.moe import mixture_at
from common.policy.pathways import PathwayMlp
from common.policy.policy import Memory, Policy
from common.settings import PolicySettings


class SharedKeysValues(nn.Module):
    """Slices of a context's features, normalised, are its keys and values: L_kv of them, for all the blocks."""

    def __init__(self, policy: PolicySettings) -> None:
        super().__init__()
        lazy = policy.lazy
        self.groups = lazy.kv_groups or policy.heads
        self.blocks, self.split = policy.decoder_layers, lazy.kv_split
        size = self.groups * (policy.d_model // policy.heads)
        self.width = lazy.kv_split * lazy.kv_layers * size
        self.key_norms = nn.ModuleList(nn.RMSNorm(size, eps=1e-6) for _ in range(lazy.kv_layers))
        self.value_norms = nn.ModuleList(nn.RMSNorm(size, eps=1e-6) for _ in range(lazy.kv_layers * (lazy.kv_split - 1)))

    def forward(self, context: Tensor) -> list[KeysValues]:
        """Context (R, S, self.width) -> keys and values (R, G, S, E) of every block: block l has pair floor(l L_kv / N)."""
        layers = len(self.key_norms)
        slices = context.chunk(layers + len(self.value_norms), -1)
        keys = [self._heads(norm, part) for norm, part in zip(self.key_norms, slices[:: self.split], strict=True)]
        values = keys
        if self.split == 2:
            values = [self._heads(norm, part) for norm, part in zip(self.value_norms, slices[1::2], strict=True)]
        return [(keys[k], values[k]) for k in (block * layers // self.blocks for block in range(self.blocks))]

    def _heads(self, norm: nn.Module, x: Tensor) -> Tensor:
        normed: Tensor = norm(x.float())  # norms are in fp32 also where products are in bf16
        heads: Tensor = normed.to(x.dtype).unflatten(-1, (self.groups, -1))
        return heads.transpose(1, 2)


class LazyAttention(nn.Module):
    """Grouped-query attention over keys and values that are given: it has neither a key nor a value projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = linear(width, width)
        self.output = linear(width, width)

    def forward(self, x: Tensor, context: KeysValues, mask: Tensor) -> Tensor:
        """Queries x (R, Q, D) over keys and values (R, G, S, E).

        The H/G heads of a group are further queries of its one head: no key is repeated.
        """
        rows, length, groups = *x.shape[:2], context[0].shape[1]
        query = self.query(x).view(rows, length, groups, self.heads // groups, -1).permute(0, 2, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query.flatten(2, 3), *context, attn_mask=mask)
        mixed = mixed.view(rows, groups, self.heads // groups, length, -1).permute(0, 3, 1, 2, 4)
        out: Tensor = self.output(mixed.flatten(2))
        return out


class LazyBlock(DecoderBlock):
    """Cross-attention over the context, then causal self-attention, then FFN (pre-norm residuals on all three)."""

    def __init__(self, width: int, heads: int, ffn: nn.Module, dropout: float) -> None:
        super().__init__()
        self.cross_attention, self.attend_context = LazyAttention(width, heads), Residual(width, dropout)
        self.self_attention, self.attend_self = Attention(width, heads), Residual(width, dropout)
        self.ffn, self.feed = ffn, Residual(width, dropout)

    def forward(self, x: Tensor, context: KeysValues, mask: Tensor) -> Tensor:
        """Teacher-forced pass over x (R, T, K, D): T targets of K positions share one context."""
        x = self._over_context(x, context, mask)
        x = self.attend_self(x, lambda y: self.self_attention(y, causal=True))
        out: Tensor = self.feed(x, self.ffn)
        return out

    def step(self, x: Tensor, cache: KeysValues | None, context: KeysValues, mask: Tensor) -> tuple[Tensor, KeysValues]:
        """One new position x (R, B, 1, D) per beam; ``cache`` holds the beam's earlier keys and values (R, B, H, k, E)."""
        x = self._over_context(x, context, mask)
        change, grown = self.self_attention.step(self.attend_self.norm(x), cache)
        return self.feed(self.attend_self.add(x, change), self.ffn), grown

    def _over_context(self, x: Tensor, context: KeysValues, mask: Tensor) -> Tensor:
        out: Tensor = self.attend_context(x, lambda y: self.cross_attention(y.flatten(1, 2), context, mask).view_as(y))
        return out


class LazyDecoder(Policy):
    """The V2 policy: a context processor, lazy decoder blocks, and for every level a norm and a head of its own."""

    def __init__(self, policy: PolicySettings) -> None:
        code_width = policy.lazy.embed_width or policy.d_model
        super().__init__(policy, code_width, side_by_side=True)
        width, features = policy.d_model, self.event.width
        self.keys_values = SharedKeysValues(policy)
        project: Callable[[int, int], nn.Module] = PathwayMlp if policy.lazy.context_mlp else linear
        self.project_static = project(self.static_features_width, self.keys_values.width)
        self.project_events = project(features, self.keys_values.width)
        # Attention over a context knows no order: positions are told by its features, one table per pathway.
        lengths = {"short": policy.short_length, "positive": policy.positive_length, "lifelong": policy.lifelong_length}
        self.positions = nn.ParameterDict({k: torch.randn(n, features) * 0.02 for k, n in lengths.items() if n})
        self.widen = linear(code_width, width) if code_width < width else nn.Identity()
        ffns = [mixture_at(policy, "decoder", k) or SwiGlu(width, policy.ffn) for k in range(policy.decoder_layers)]
        self.decoder = nn.ModuleList(LazyBlock(width, policy.heads, ffn, policy.dropout) for ffn in ffns)
        self.head_norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-6) for _ in range(policy.levels))
        self.heads = nn.ModuleList(linear(width, policy.codes, std=0.02) for _ in range(policy.levels))

    @property
    def blocks(self) -> list[DecoderBlock]:
        """The decoder, first block first."""
        return [block for block in self.decoder if isinstance(block, DecoderBlock)]

    def encode(self, inputs: PolicyInputs) -> Memory:
        """Map R contexts to shared keys and values; the result serves any number of targets or beams."""
        pathways = {"short": inputs.short, "positive": inputs.positive}
        if self.settings.lifelong_length:
            assert inputs.lifelong is not None
            pathways["lifelong"] = inputs.lifelong
        static = self.project_static(self.static_features(inputs)).unsqueeze(1)
        events = torch.cat([self._features(name, one) for name, one in pathways.items()], 1)
        # In fp32 also under autocast, since norms follow.
        context = self.dropout(torch.cat((static, self.project_events(events)), 1)).float()
        mask = functional.pad(torch.cat([one.mask for one in pathways.values()], 1), (1, 0), value=True)
        if self.settings.lifelong_length:
            mask = _weighted(mask, torch.cat([one.leaf_size for one in pathways.values()], 1)).to(context.dtype)
        return Memory(self.keys_values(context), mask[:, None, None, :], self.begin.expand(len(context), 1, -1))

    def embed(self, level: int, codes: Tensor) -> Tensor:
        """Codes (…) of one level as the decoder reads them (…, D), of unit scale.

        A block begins with the context. What it adds would drown an embedding as small as it is at first, and what a code
        says of the next one would be learned much later.
        """
        wide: Tensor = self.widen(self.codes.embed(level, codes))
        return functional.rms_norm(wide.float(), wide.shape[-1:], eps=1e-6)

    def head(self, level: int, hidden: Tensor) -> Tensor:
        """Decoder output (…, D) at one level -> logits (…, V), by the level's own norm and head."""
        out: Tensor = self.heads[level](self.head_norms[level](hidden))
        return out

    def _features(self, pathway: str, events: EventFeatures) -> Tensor:
        out: Tensor = self.event(events) + self.positions[pathway][: events.mask.shape[1]]
        return out


def _weighted(mask: Tensor, sizes: Tensor) -> Tensor:
    """Additive bias (R, S): a leaf of n events gets ln n on its logit, which equals attending to n copies of it."""
    bias: Tensor = functional.pad(sizes.clamp(min=1).log(), (1, 0))
    return bias.masked_fill(~mask, float("-inf"))
