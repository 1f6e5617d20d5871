"""Transformer parts shared by the policy's encoder, decoder and lifelong pathway, and by the tokenizer's QFormer.

Shape legend: R contexts, Q query positions, S memory positions, H heads, E head width, D model width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

KeysValues = tuple[Tensor, Tensor]

ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
"""What torch's compiler calls for such products; there is no public call that takes and gives plain tensors."""
LARGE_PRODUCT = 2**18
"""Numbers in a result from which oneDNN makes an fp32 product in five sixths of MKL's time, on an AMD processor."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, I) by the rows of weight (O, I) -> (…, O), as `functional.linear`.

    On a CPU large ones are oneDNN's, unless gradients are wanted: in fp32 torch itself asks MKL.
    """
    large = x.numel() // x.shape[-1] * len(weight) >= LARGE_PRODUCT
    if ONEDNN is None or not large or x.device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return functional.linear(x, weight, bias)
    out: Tensor = ONEDNN(x, weight, bias, "none", [], "")
    return out


class Linear(nn.Linear):
    """A linear layer by `product`."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) -> (…, O)."""
        return product(x, self.weight, self.bias)


def linear(inputs: int, outputs: int, bias: bool = False, std: float | None = None) -> nn.Linear:
    """A linear layer with normal initialisation, which preserves variance unless ``std`` is given."""
    layer = Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=inputs**-0.5 if std is None else std)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def table(rows: int, width: int, sparse: bool = False) -> nn.Embedding:
    """An embedding table whose row 0 is padding and stays zero.

    ``sparse``: its gradient is that of the rows read, not a tensor of the table's size: for the many rows of ids.
    """
    embedding = nn.Embedding(rows, width, padding_idx=0, sparse=sparse)
    nn.init.normal_(embedding.weight, std=0.02)
    with torch.no_grad():
        embedding.weight[0].zero_()
    return embedding


class Attention(nn.Module):
    """Multi-head attention whose keys and values may be computed once and reused for many queries."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = linear(width, width)
        self.key = linear(width, width)
        self.value = linear(width, width)
        self.output = linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, x.shape[-1] // self.heads).transpose(-2, -3)

    def keys_values(self, memory: Tensor) -> KeysValues:
        """(…, S, D) -> keys and values (…, H, S, E)."""
        return self._split(self.key(memory)), self._split(self.value(memory))

    def attend(self, x: Tensor, keys_values: KeysValues, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Queries from x (…, Q, D) over given keys and values. ``mask``: True = visible, or an additive float bias."""
        mixed = functional.scaled_dot_product_attention(
            self._split(self.query(x)), *keys_values, attn_mask=mask, is_causal=causal
        )
        out: Tensor = self.output(mixed.transpose(-2, -3).flatten(-2))
        return out

    def step(self, x: Tensor, cache: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """One new position x (…, 1, D) sees the earlier ones, if any, and itself: output (…, 1, D), keys and values of all.

        Written out, because kernels made for many queries of the same keys are slow where each query has its own few keys.
        """
        query, (keys, values) = self._split(self.query(x)), self.keys_values(x)
        if cache is not None:
            keys, values = torch.cat((cache[0], keys), -2), torch.cat((cache[1], values), -2)
        share = ((query * keys).sum(-1) * query.shape[-1] ** -0.5).softmax(-1)
        mixed = (share.unsqueeze(-1) * values).sum(-2)
        return self.output(mixed.flatten(-2).unsqueeze(-2)), (keys, values)

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Self-attention over x (…, Q, D)."""
        rows = x.flatten(0, -3)  # fused kernels take one leading axis
        return self.attend(rows, self.keys_values(rows), mask, causal).view_as(x)


class FeedForward(nn.Module):
    """Dense FFN: two matrices with GELU between (OneRec technical report, table 1)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = linear(width, hidden)
        self.down = linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) -> (…, D)."""
        out: Tensor = self.down(functional.gelu(self.up(x)))
        return out


class SwiGlu(nn.Module):
    """Gated FFN: three matrices, SiLU on the gate."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = linear(width, hidden)
        self.up = linear(width, hidden)
        self.down = linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) -> (…, D)."""
        out: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return out


class Residual(nn.Module):
    """Pre-norm residual step: x + dropout(f(RMSNorm(x)))."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply one step."""
        return self.add(x, step(self.norm(x)))

    def add(self, x: Tensor, change: Tensor) -> Tensor:
        """x + dropout(change), for a step that needs the norm itself."""
        out: Tensor = x + self.dropout(change)
        return out


class EncoderLayer(nn.Module):
    """Bidirectional self-attention, then an FFN of any kind (pre-norm residuals)."""

    def __init__(self, width: int, heads: int, ffn: nn.Module, dropout: float) -> None:
        super().__init__()
        self.attention, self.attend = Attention(width, heads), Residual(width, dropout)
        self.ffn, self.feed = ffn, Residual(width, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (R, S, D), mask (R, 1, 1, S) True where visible."""
        x = self.attend(x, lambda y: self.attention(y, mask))
        out: Tensor = self.feed(x, self.ffn)
        return out


class DecoderBlock(nn.Module, ABC):
    """A block of a decoder: its positions see each other causally, and all of one context's see that context."""

    @abstractmethod
    def forward(self, x: Tensor, context: KeysValues, mask: Tensor) -> Tensor:
        """Teacher-forced pass over x (R, T, K, D): T targets of K positions share one context."""

    @abstractmethod
    def step(self, x: Tensor, cache: KeysValues | None, context: KeysValues, mask: Tensor) -> tuple[Tensor, KeysValues]:
        """One new position x (R, B, 1, D) per beam; ``cache`` holds the beam's earlier keys and values (R, B, H, k, E)."""


class DecoderLayer(DecoderBlock):
    """Causal self-attention, cross-attention over the context, an FFN of any kind (pre-norm residuals on all three)."""

    def __init__(self, width: int, heads: int, ffn: nn.Module, dropout: float) -> None:
        super().__init__()
        self.self_attention, self.attend_self = Attention(width, heads), Residual(width, dropout)
        self.cross_attention, self.attend_context = Attention(width, heads), Residual(width, dropout)
        self.ffn, self.feed = ffn, Residual(width, dropout)

    def forward(self, x: Tensor, context: KeysValues, mask: Tensor) -> Tensor:
        """Teacher-forced pass over x (R, T, K, D): T targets of K positions share one context."""
        x = self.attend_self(x, lambda y: self.self_attention(y, causal=True))
        return self._over_context(x, context, mask)

    def step(self, x: Tensor, cache: KeysValues | None, context: KeysValues, mask: Tensor) -> tuple[Tensor, KeysValues]:
        """One new position x (R, B, 1, D) per beam; ``cache`` holds the beam's earlier keys and values (R, B, H, k, E)."""
        change, grown = self.self_attention.step(self.attend_self.norm(x), cache)
        return self._over_context(self.attend_self.add(x, change), context, mask), grown

    def _over_context(self, x: Tensor, context: KeysValues, mask: Tensor) -> Tensor:
        def cross(y: Tensor) -> Tensor:
            # All targets or beams of one user are queries of one attention: keys and values are never copied per beam.
            return self.cross_attention.attend(y.flatten(1, 2), context, mask).view_as(y)

        x = self.attend_context(x, cross)
        out: Tensor = self.feed(x, self.ffn)
        return out


class QueryBlock(nn.Module):
    """Queries read a memory: cross-attention, then FFN (pre-norm residuals on both)."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention, self.attend = Attention(width, heads), Residual(width, dropout)
        self.ffn, self.feed = FeedForward(width, hidden), Residual(width, dropout)

    def forward(self, hidden: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Queries (R, Q, D) over memory (R, S, D); ``mask`` as in `Attention.attend`, broadcast to (R, H, Q, S)."""
        keys_values = self.attention.keys_values(memory)
        hidden = self.attend(hidden, lambda y: self.attention.attend(y, keys_values, mask))
        out: Tensor = self.feed(hidden, self.ffn)
        return out
