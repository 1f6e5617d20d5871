"""From items to semantic IDs: vectors, alignment, quantizer, new items."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.settings.section import Positive, Rate, Section, Share, Weight


class AlignmentSettings(Section):
    """QFormer alignment of content with behaviour (OneRec technical report, section "Tokenizer").

    The defaults suit a catalogue of some ten thousand items; larger ones have more pairs and bear many more steps.
    """

    width: Annotated[int, Field(ge=8)] = 384
    """d_t of queries and content tokens; the report uses 512. One narrower than the content loses some of it."""
    queries: Positive = 4
    """Learned queries; an item's aligned vector is made of as many tokens."""
    layers: Positive = 4
    """Blocks of the QFormer."""
    heads: Positive = 8
    """Of attention; they divide ``width``."""
    literal: bool = False
    """The update as printed in the report (no residual connections) instead of pre-norm residuals."""
    steps: Positive = 150
    """Of training, each on ``batch`` pairs."""
    batch: Annotated[int, Field(ge=2)] = 512
    """Item pairs of a step; each other pair's second item is a negative."""
    learning_rate: Rate = 3e-4
    """Of the QFormer."""
    caption_learning_rate: Rate = 2e-3
    """Of the caption decoder's trained parts, which begin from nothing."""
    weight_decay: Weight = 0.01
    """Of AdamW."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of activations left out while training."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Of the contrast: similarities are divided by it."""
    symmetric: bool = False
    """Contrast in both directions of a pair instead of one."""
    popularity_correction: Share = 1.0
    """How much of the log of an item's share of the pairs is taken from its logit as a negative: with 0 (the report's
    loss) likeness is learned relative to popularity, with 1 popular items come closer to all they are paired with."""
    contrast_weight: Weight = 1.0
    """Weight of the contrast of item pairs."""
    caption_weight: Weight = 4.0
    """Weight of the caption loss."""
    caption_batch: Positive = 64
    """Captions of a step; the items are drawn from the step's pairs."""
    caption_tokens: Annotated[int, Field(ge=2)] = 24
    """Longer captions are cut."""
    caption_model: str = ""
    """Folder of a Hugging Face causal language model, used frozen; empty trains a small one alongside."""

    @model_validator(mode="after")
    def _consistent(self) -> AlignmentSettings:
        if self.width % self.heads:
            raise ValueError(f"alignment.heads must divide alignment.width, got {self.heads} and {self.width}")
        if self.contrast_weight == self.caption_weight == 0:
            raise ValueError("alignment.contrast_weight and alignment.caption_weight must not both be 0")
        return self


class RqVaeSettings(Section):
    """The residual-quantised autoencoder, the rival of RQ-Kmeans."""

    latent: Positive = 32
    """Width of what is quantised."""
    hidden: list[Positive] = Field(default=[512, 256, 128])
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""
    epochs: Positive = 60
    """Of these, the first ``warm_up`` are without codes."""
    warm_up: Annotated[int, Field(ge=0)] = 0
    """Codebooks start from k-means after this many epochs: on random weights (0) the first level may collapse."""
    batch: Positive = 1024
    """Items of a step."""
    learning_rate: Rate = 1e-3
    """Of Adam."""
    commitment: Weight = 0.25
    """Beta: how strongly residuals are drawn to their codes."""

    @model_validator(mode="after")
    def _codes_are_trained(self) -> RqVaeSettings:
        if self.warm_up >= self.epochs:
            raise ValueError(f"warm_up must be below epochs ({self.epochs}), got {self.warm_up}")
        return self


class OnlineSettings(Section):
    """New items while everything runs."""

    publish_every_s: Annotated[float, Field(gt=0)] = 15.0
    """How long a new item waits, at most, until a snapshot with it is published; snapshots are no closer than this."""
    max_age_days: Annotated[int, Field(ge=0)] = 0
    """Items published longer ago than this, by the newest item's clock, expire; 0 keeps them for ever."""
    keep_snapshots: Annotated[int, Field(ge=2)] = 8
    """Older snapshots that no reader has pinned are removed."""
    drift_alarm: Annotated[float, Field(gt=0)] = 0.2
    """Alarm when new items' mean residual norm exceeds that of the fit set by this share."""


class TokenizerSettings(Section):
    """Item vectors and their quantizer."""

    vectors: Literal["joined", "aligned"] = "joined"
    """``joined``: collaborative (PPMI-SVD) beside content vectors; ``aligned``: QFormer vectors of the content."""
    collaborative_width: Positive = 64
    """Dimensions kept of the factorised co-occurrence."""
    content_width: Positive = 32
    """Dimensions kept of the content vectors, by PCA."""
    collaborative_weight: Weight = 1.0
    """Length of the collaborative part of a joined vector."""
    content_weight: Weight = 0.5
    """Length of its content part."""
    window: Positive = 10
    """Two items of one user co-occur when they are at most this many positions apart."""
    alignment: AlignmentSettings = AlignmentSettings()
    method: Literal["rq_kmeans", "balanced", "rq_vae"] = "rq_kmeans"
    """How vectors become codes: residual k-means, the same with balanced clusters, or an autoencoder."""
    backend: Literal["auto", "torch", "faiss"] = "auto"
    """Who runs k-means; ``auto`` takes faiss where it is installed."""
    iterations: Positive = 25
    """Of k-means, at each level."""
    balanced_method: Literal["capacity", "mincost"] = "capacity"
    """``mincost`` finds the best balanced assignment, for small catalogues only."""
    rq_vae: RqVaeSettings = RqVaeSettings()
    dedup: Literal["none", "next_best", "append_level"] = "next_best"
    """``next_best`` gives items that share a semantic ID different last codes where their prefix has codes left;
    ``append_level`` numbers them by a last level of its own, which is one of ``policy.levels``."""
    online: OnlineSettings = OnlineSettings()
