"""A V1 policy's weights in Hugging Face's T5, so that its ``generate`` searches the very same beams.

T5 is V1 but for conventions: queries are not scaled (their weights are, here), and positions enter as a bias (zero, here).
Its vocabulary is that of all levels side by side, as users of T5 have it, of which a position's head leaves its level's
codes; or the position chooses its level's table, which costs the head a third. Shape legend: R contexts, S context
positions, W beams, K levels, V codes, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import T5Config, T5ForConditionalGeneration

from common.features import PolicyInputs
from common.policy.encoder_decoder import EncoderDecoder
from common.policy.layers import Attention, DecoderLayer, EncoderLayer, FeedForward

Allowed = Callable[[int, Tensor], list[int]]
"""The number of a context and a beam's tokens so far, the start token first -> those that may follow."""


class _Levelled(nn.Module):
    """Reads or scores the codes of the level that was set last."""

    def __init__(self, policy: EncoderDecoder, reads: bool, joint: bool) -> None:
        super().__init__()
        self.policy, self.reads, self.joint, self.level = policy, reads, joint, 0

    def forward(self, x: Tensor) -> Tensor:
        """Previous tokens (B, 1) -> inputs (B, 1, D), or outputs (B, 1, D) -> logits (B, 1, V or K V)."""
        return self._read(x) if self.reads else self._score(x)

    def _read(self, tokens: Tensor) -> Tensor:
        policy, level = self.policy, self.level
        codes = tokens % policy.settings.codes
        token = policy.begin.expand(*codes.shape, -1) if level == 0 else policy.embed(level - 1, codes)
        return token + policy.level[level]

    def _score(self, hidden: Tensor) -> Tensor:
        tables, codes = self.policy.codes.weight, self.policy.settings.codes
        if not self.joint:
            return functional.linear(hidden, tables[self.level])
        logits = functional.linear(hidden, tables.flatten(0, 1))
        logits[..., : self.level * codes] = float("-inf")
        logits[..., (self.level + 1) * codes :] = float("-inf")
        return logits


class LevelledT5(T5ForConditionalGeneration):  # type: ignore[no-untyped-call]
    """T5 whose decoder positions are semantic-ID levels."""

    def forward(self, *arguments: Any, past_key_values: Any = None, **named: Any) -> Any:
        """As T5's; positions already in the cache say at which level this one is."""
        own: Any = self
        own.decoder.embed_tokens.level = own.lm_head.level = past_key_values.get_seq_length() if past_key_values else 0
        return super().forward(*arguments, past_key_values=past_key_values, **named)


def as_t5(policy: EncoderDecoder, joint: bool) -> LevelledT5:
    """The policy's weights in T5, with a joint vocabulary or one per level; code tables are shared, others copied."""
    settings = policy.settings
    options: dict[str, Any] = {
        "vocab_size": settings.codes * (settings.levels if joint else 1),
        "d_model": settings.d_model,
        "d_kv": settings.d_model // settings.heads,
        "d_ff": settings.ffn,
        "num_layers": settings.encoder_layers,
        "num_decoder_layers": settings.decoder_layers,
        "num_heads": settings.heads,
        "dropout_rate": 0.0,
        "feed_forward_proj": "gelu",
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    model: Any = LevelledT5(T5Config(**options))
    with torch.no_grad():
        for stack, layers in ((model.encoder, policy.encoder), (model.decoder, policy.decoder)):
            stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()
            for block, layer in zip(stack.block, layers, strict=True):
                _copy(block, layer)
        model.encoder.final_layer_norm.weight.copy_(policy.encoder_norm.weight)
        model.decoder.final_layer_norm.weight.copy_(policy.decoder_norm.weight)
    model.decoder.embed_tokens = _Levelled(policy, reads=True, joint=joint)
    model.lm_head = _Levelled(policy, reads=False, joint=joint)
    model.eval()
    found: LevelledT5 = model
    return found


@torch.no_grad()
def encoder_inputs(policy: EncoderDecoder, inputs: PolicyInputs) -> tuple[Tensor, Tensor]:
    """What V1's encoder gets of contexts: embeddings (R, S, D), and the mask (R, S) of those that are there."""
    kept: list[Tensor] = []
    hook = policy.encoder[0].register_forward_pre_hook(lambda _, given: kept.extend(given))
    try:
        policy.encode(inputs)
    finally:
        hook.remove()
    embeddings, mask = kept
    return embeddings, mask[:, 0, 0]


def generate(
    model: LevelledT5, embeddings: Tensor, mask: Tensor, width: int, allowed: Allowed | None = None
) -> tuple[Tensor, Tensor]:
    """Hugging Face's beam search: codes (R, W, K), and their log-probabilities (R, W); ``allowed`` tells legal tokens."""
    searching: Any = model
    settings = searching.lm_head.policy.settings
    found = searching.generate(
        inputs_embeds=embeddings,
        attention_mask=mask.long(),
        num_beams=width,
        num_return_sequences=width,
        min_new_tokens=settings.levels,
        max_new_tokens=settings.levels,
        length_penalty=0.0,
        do_sample=False,
        prefix_allowed_tokens_fn=allowed,
        return_dict_in_generate=True,
        output_scores=True,
    )
    codes = found.sequences[:, 1:] % settings.codes
    return codes.view(len(mask), width, settings.levels), found.sequences_scores.view(len(mask), width)


def _copy(block: Any, layer: nn.Module) -> None:
    parts: list[tuple[Attention, Any, nn.Module]]
    if isinstance(layer, EncoderLayer):
        parts = [(layer.attention, block.layer[0].SelfAttention, layer.attend)]
    else:
        assert isinstance(layer, DecoderLayer)
        parts = [
            (layer.self_attention, block.layer[0].SelfAttention, layer.attend_self),
            (layer.cross_attention, block.layer[1].EncDecAttention, layer.attend_context),
        ]
    for k, (ours, theirs, residual) in enumerate(parts):
        width = ours.query.in_features // ours.heads
        theirs.q.weight.copy_(ours.query.weight * width**-0.5)
        for name, mine in (("k", ours.key), ("v", ours.value), ("o", ours.output)):
            getattr(theirs, name).weight.copy_(mine.weight)
        block.layer[k].layer_norm.weight.copy_(residual.get_submodule("norm").weight)
    last, ffn = block.layer[-1], layer.ffn
    assert isinstance(ffn, FeedForward)
    last.DenseReluDense.wi.weight.copy_(ffn.up.weight)
    last.DenseReluDense.wo.weight.copy_(ffn.down.weight)
    last.layer_norm.weight.copy_(layer.get_submodule("feed").get_submodule("norm").weight)
