"""What is learned, and from what: pre-training, the preference model, fine-tuning, reinforcement, synchronisation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.messages import Terms
from common.settings.section import Positive, Rate, Section, Share, Weight


class PretrainSettings(Section):
    """Next-token prediction before streaming: on initial histories, then on the warm window."""

    history_epochs: Annotated[int, Field(ge=0)] = 1
    """Passes over the histories from before the log."""
    warm_epochs: Annotated[int, Field(ge=0)] = 1
    """Passes over the warm days' sessions."""
    targets_per_context: Positive = 8
    """Next items that one encoded context is trained on, at most."""
    batch_contexts: Positive = 64
    """Contexts of a step."""
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    """Threads that each take a share of every batch; their number is part of the result (order of summation)."""
    learning_rate: Rate = 1e-3
    """Of the dense weights, after warm-up; falls to a tenth of it along a cosine."""
    sparse_learning_rate: Rate = 3e-2
    """Of the id tables: about how far a row's first update moves it; the n-th moves it by this over sqrt(n)."""
    warmup_share: Share = 0.02
    """Share of the steps in which the rate rises."""
    weight_decay: Weight = 0.01
    """Of the dense weights."""
    item_distillation: Share = 0.0
    """Share of each level's target that comes from a softmax over all items, which is learned beside the policy. Needs
    ``policy.item_path``; costs an operation per target, item and dimension, so that it is for small catalogues."""


class IndustrialSettings(Section):
    """Less reward for items that serve reach rather than users, while too many of them are generated."""

    tags: list[Annotated[int, Field(ge=0)]] = Field(default=[])
    """An item with one of these is of the kind; none turns the rule off."""
    share_limit: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Of the generated legal items."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Alpha: what is left of the reward."""
    band: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """The rule ends when the share is below the limit by this share of it."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Of the share's exponential mean, per request."""


class OnlineRewardSettings(Section):
    """How the preference model goes on learning from the sessions topic."""

    publish_every: Annotated[int, Field(ge=0)] = 20_000
    """Impressions between two versions; 0 leaves the model as it was before streaming."""
    keep: Annotated[int, Field(ge=2)] = 3
    """Versions that stay on disk."""

    @property
    def on(self) -> bool:
        """Whether it goes on learning."""
        return self.publish_every > 0


class RewardSettings(Section):
    """The preference model (OneRec technical report, section 2.4.1)."""

    width: Positive = 32
    """Of embeddings and towers."""
    history: Positive = 100
    """Events of a user that the search unit finds for an item, at most."""
    epochs: Positive = 1
    """Passes over the impressions."""
    batch: Positive = 512
    """Impressions of a step."""
    learning_rate: Rate = 2e-3
    """Of the optimizer."""
    max_weight: Annotated[float, Field(gt=0)] = 20.0
    """Objective weights are 1 / prevalence, clipped here."""
    reweighting_rounds: Annotated[int, Field(ge=0, le=100)] = 0
    """Times that the model is trained again with more weight on what the P-Score ranks worst; the best one counts."""
    terms: Terms = Field(default={"p_score": 1.0})
    """The reward is the mean of these by their weights."""
    industrial: IndustrialSettings = IndustrialSettings()
    online: OnlineRewardSettings = OnlineRewardSettings()

    @model_validator(mode="after")
    def _rewards_something(self) -> RewardSettings:
        if not self.terms:
            raise ValueError(f"reward.terms must name a term with a weight above 0, got {self.terms}")
        return self


class FilterSettings(Section):
    """RSFT: keep the better half of the sessions by play duration (OneRec technical report, section 3.3)."""

    window: Positive = 100_000
    """Sessions whose play times the median is of."""
    warmup: Annotated[int, Field(ge=0)] = 1000
    """Sessions kept unconditionally while the streaming median has seen fewer than this many."""


class TrainerSettings(Section):
    """The streaming trainer."""

    ranks: Positive = 1
    """Processes that train together, each on its share of the stream's partitions."""
    batch_sessions: Positive = 16
    """Sessions consumed (before the filter) per step, by all ranks; batches are cut by count, never by a timer."""
    targets: Literal["all", "positive"] = "all"
    """Which impressions of a kept session are next-token targets."""
    max_targets: Positive = 8
    """Targets trained per session (the last ones)."""
    micro_batch: Annotated[int, Field(ge=0)] = 0
    """Contexts of one forward and backward pass; a step's gradients add up. 0 takes the whole batch at once."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the next-token loss's matrix products; reinforcement always runs in fp32, since its ratios compare log-probs."""
    learning_rate: Rate = 8e-5
    """Of the dense weights."""
    sparse_learning_rate: Rate = 1e-4
    """The published rate, with row-wise Adagrad in place of an optimizer that the report does not name."""
    weight_decay: Weight = 0.01
    """Of the dense weights."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Longest gradient of a step; a longer one is scaled down to it."""
    drain_s: Annotated[float, Field(ge=0)] = 60.0
    """How long to wait at the end of a finite log for outstanding groups."""


class SyncSettings(Section):
    """Parameter push."""

    every: Positive = 1000
    """Steps between two parameter versions."""
    max_lag: Annotated[int, Field(ge=0)] = 2
    """Groups that are more versions behind the newest published one are dropped."""
    frozen: bool = False
    """Rollout keeps the first version (the pre-trained reference of the report's table 9) instead of the newest."""


class RlSettings(Section):
    """Reinforcement learning (OneRec technical report, sections 2.4 and 3.3)."""

    rate: Share = 0.01
    """Share of users (by a hash of user and day) for whom rollouts are requested."""
    group_size: Annotated[int, Field(ge=2, le=2048)] = 512
    """Candidates of a group (G)."""
    candidates: Literal["beam", "sample"] = "beam"
    """The best by beam search, or draws from the truncated policy."""
    top_k: Positive = 100
    """Of draws: the most probable codes of a level that may be drawn."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Of draws: the share of those codes' probability that may be drawn, most probable first."""
    groups_per_step: Positive = 4
    """Groups trained per step at most, by all ranks."""
    max_outstanding: Positive = 64
    """Requests in flight, of all ranks; beyond it new ones are skipped and counted."""
    objective: Literal["ecpo", "grpo", "gbpo", "dpo"] = "ecpo"
    """ECPO (OneRec technical report), GRPO without a KL term, GBPO (OneRec-V2), or DPO on a group's best and worst candidate
    (OneRec's first version: iterative preference alignment, whose reference moves with every parameter push)."""
    ratio_level: Literal["auto", "sequence", "token"] = "auto"
    """Whether a ratio is of a whole semantic ID or of one level; ``auto`` is what the papers do, token for GBPO only."""
    beta: Rate = 0.1
    """Of DPO: how fast a pair that the policy already tells apart ceases to push."""
    eps: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Ratios beyond 1 ± this are clipped."""
    delta: Annotated[float, Field(ge=1e-3)] = 0.1
    """ECPO: a negative advantage's ratio is bounded at 1 + eps + this before it is used. The bound must lie above 1 + eps by
    more than rounding, so that positive ones beyond that are still clipped."""
    lambda_preference: Weight = 0.1
    """Weight of the preference term."""
    lambda_format: Weight = 0.1
    """Weight of the format term."""
    lambda_feedback: Weight = 0.0
    """Of reinforcement by what users did with the items they were shown, by GBPO; 0 leaves it out (OneRec-V2, section 4)."""
    duration_base: Annotated[float, Field(gt=1)] = 2.0
    """Plays are compared among videos whose durations, to this base, have the same whole logarithm."""
    fewest_plays: Positive = 5
    """With fewer plays of like videos of a user's own, a play is ranked among everybody's."""
    format_samples: Annotated[int, Field(ge=0)] = 0
    """K of the format reward; 0 means round(5 G / 128)."""
    format_select: Literal["random", "top"] = "random"
    """How the K are drawn; ``top``, the most probable, is there for the ablation that advises against it."""

    @model_validator(mode="after")
    def _a_pair_is_of_whole_items(self) -> RlSettings:
        if self.objective == "dpo" and self.ratio_level == "token":
            raise ValueError("rl.ratio_level must be 'auto' or 'sequence' with rl.objective 'dpo', got 'token'")
        return self
