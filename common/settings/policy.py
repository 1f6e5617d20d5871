"""The policy: its architecture, sizes and inputs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.settings.section import Positive, Rate, Section, Weight


class MoeSettings(Section):
    """Mixtures of experts in place of dense FFNs (OneRec technical report, table 1; balancing as in DeepSeek-V3)."""

    experts: Annotated[int, Field(ge=0)] = 0
    """Routed experts of a mixture; 0 keeps every FFN dense."""
    active: Annotated[int, Field(ge=2)] = 2
    """Experts per token. With a single one its normalised gate is always 1, and the router would learn nothing."""
    shared: Annotated[int, Field(ge=0)] = 0
    """Experts that every token goes through beside those."""
    width: Annotated[int, Field(ge=0, multiple_of=8)] = 0
    """Hidden width of an expert; 0 is 2/3 * 4 * d_model rounded up to a multiple of 128."""
    encoder_blocks: list[Annotated[int, Field(ge=0)]] = Field(default=[])
    """Blocks of the encoder, from 0, that have a mixture."""
    decoder_blocks: list[Annotated[int, Field(ge=0)]] = Field(default=[])
    """The same for the decoder."""
    balancing: Literal["loss_free", "auxiliary", "none"] = "loss_free"
    """``loss_free`` moves selection biases, ``auxiliary`` adds a loss."""
    gamma: Rate = 1e-3
    """Step of the biases; 1e-2 suits runs under five thousand steps."""
    alpha: Weight = 1e-2
    """Weight of the auxiliary loss."""

    @model_validator(mode="after")
    def _consistent(self) -> MoeSettings:
        if self.experts and self.active > self.experts:
            raise ValueError(f"moe.active must be 2..moe.experts ({self.experts}), got {self.active}")
        if self.experts and not self.encoder_blocks + self.decoder_blocks:
            raise ValueError("moe.encoder_blocks or moe.decoder_blocks must name a block, got none for moe.experts")
        return self


class LazySettings(Section):
    """The lazy decoder's reading of its context (OneRec-V2, section 2.2)."""

    kv_layers: Positive = 1
    """L_kv: different keys and values of the context; consecutive blocks share one of them."""
    kv_split: Annotated[int, Field(ge=1, le=2)] = 1
    """S_kv: 2 makes values of their own beside the keys, 1 uses the keys as values."""
    kv_groups: Annotated[int, Field(ge=0)] = 0
    """G_kv: heads of keys and values, each shared by as many query heads; 0 means one for every query head."""
    embed_width: Annotated[int, Field(ge=0)] = 0
    """Width of the code embeddings; the paper's is about d_model / 20. 0 means d_model."""
    context_mlp: bool = False
    """Dense-LeakyReLU-Dense on the context's features instead of one linear map."""


class PolicySettings(Section):
    """The generative policy: its architecture, sizes and inputs (docs/architectures.md)."""

    architecture: Literal["encoder_decoder", "lazy_decoder", "session_decoder"] = "encoder_decoder"
    """V1, V2 (OneRec-V2) or the first OneRec's, which generates a session's items together."""
    lazy: LazySettings = LazySettings()
    """Read by ``lazy_decoder`` alone."""
    session_items: Annotated[int, Field(ge=2)] = 5
    """Items of a session that ``session_decoder`` generates together."""
    d_model: Annotated[int, Field(ge=8)] = 64
    """Width of the residual stream."""
    heads: Positive = 4
    """Of attention; they divide ``d_model``."""
    encoder_layers: Positive = 1
    """The lazy decoder has no encoder."""
    decoder_layers: Positive = 1
    """Blocks of the decoder."""
    item_path: bool = False
    """V1 and the session decoder: a residual path from the newest item to the code tables. Items skip the pathway's MLP, and
    decoding begins with the newest event's encoding, as next-item models without a decoder have it (SASRec)."""
    ffn: Positive = 128
    """Hidden width of a feed-forward network: two matrices with GELU, in the lazy decoder SwiGLU (three)."""
    levels: Annotated[int, Field(ge=2, le=5)] = 3
    """Codes of a semantic ID, and so steps of a search."""
    codes: Annotated[int, Field(ge=2, le=65536)] = 96
    """Codebook size N_t of every level."""
    feature_width: Annotated[int, Field(ge=4)] = 16
    """Width of the author, tag, time, play, duration and label embeddings."""
    author_width: Annotated[int, Field(ge=0)] = 0
    """Width of the author embedding where it differs; 0 is ``feature_width``."""
    static_fields: list[str] = Field(default=[])
    """Profile fields (in this order) that enter the user-static pathway beside the user id."""
    static_width: Annotated[int, Field(ge=4)] = 16
    """Width of each embedding of the user-static pathway."""
    static_buckets: Annotated[int, Field(ge=2)] = 1024
    """Rows of the hashed table of profile values."""
    user_buckets: Annotated[int, Field(ge=2)] = 4096
    """Rows of the hashed user table."""
    item_buckets: Annotated[int, Field(ge=2)] = 8192
    """Rows of the hashed item (vid) table; row 0 is padding."""
    author_buckets: Annotated[int, Field(ge=2)] = 4096
    """Rows of the hashed author table."""
    tag_buckets: Annotated[int, Field(ge=2)] = 1024
    """Rows of the hashed tag table."""
    short_length: Annotated[int, Field(ge=1)] = 20
    """Newest events of any kind that the policy reads."""
    positive_length: Annotated[int, Field(ge=1)] = 32
    """Newest positive events that it reads (interactions and long views)."""
    lifelong_length: Annotated[int, Field(ge=0)] = 0
    """Representatives kept by the lifelong compression; 0 turns the pathway off."""
    lifelong_queries: Positive = 8
    """Queries of the QFormer that reads the representatives."""
    lifelong_blocks: Positive = 2
    """Blocks of that QFormer."""
    vid_input: bool = True
    """A history item is known by the embedding of its hashed id."""
    sid_input: bool = True
    """A history item is known by its semantic ID's code embeddings (shared with the decoder)."""
    side_inputs: bool = True
    """A history event also brings author, tags, time, play time, duration and labels."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of activations left out while training; 0 where reinforcement's ratios must be exact."""
    moe: MoeSettings = MoeSettings()

    @model_validator(mode="after")
    def _consistent(self) -> PolicySettings:
        lazy = self.lazy
        if self.d_model % self.heads:
            raise ValueError(f"policy.heads must divide policy.d_model, got {self.heads} and {self.d_model}")
        if not (self.vid_input or self.sid_input):
            raise ValueError("policy.vid_input and policy.sid_input must not both be false")
        if self.item_path and self.architecture == "lazy_decoder":
            raise ValueError("policy.item_path must be false with policy.architecture lazy_decoder, which encodes no event")
        if lazy.kv_groups and self.heads % lazy.kv_groups:
            raise ValueError(f"policy.lazy.kv_groups must divide policy.heads ({self.heads}), got {lazy.kv_groups}")
        if lazy.kv_layers > self.decoder_layers:
            raise ValueError(
                f"policy.lazy.kv_layers must be at most policy.decoder_layers ({self.decoder_layers}), got {lazy.kv_layers}"
            )
        if lazy.embed_width > self.d_model:
            raise ValueError(
                f"policy.lazy.embed_width must be at most policy.d_model ({self.d_model}), got {lazy.embed_width}"
            )
        return self

    @model_validator(mode="after")
    def _mixtures_fit(self) -> PolicySettings:
        if not self.moe.experts:
            return self
        if self.d_model % 8:  # grouped products need rows of 16 bytes, also in bf16
            raise ValueError(f"policy.d_model must be a multiple of 8 with policy.moe.experts, got {self.d_model}")
        for name, blocks, layers in (
            ("encoder", self.moe.encoder_blocks, self.encoder_layers),
            ("decoder", self.moe.decoder_blocks, self.decoder_layers),
        ):
            if max(blocks, default=0) >= layers:
                raise ValueError(f"policy.moe.{name}_blocks must lie in 0..{layers - 1}, got {max(blocks)}")
        return self
