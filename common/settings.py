"""One typed settings tree: TOML profile < environment (``ONEREC_RL__RATE=0.05``) < command line; unknown keys are errors.

This module imports nothing heavy, so that a wrong key is reported before torch or Ray are loaded.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

PROFILES = Path(__file__).resolve().parent.parent / "deploy" / "profiles"
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]


class SettingsError(ValueError):
    """The settings cannot be used: names the key, the value and what is accepted."""


class Section(BaseModel):
    """A part of the tree: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StreamSettings(Section):
    """Kafka."""

    bootstrap: str = ""
    """``HOST:PORT`` of an existing broker; empty starts the embedded one."""
    prefix: str = "onerec"
    """First part of every topic name; `onerec up` appends the run's name."""
    partitions: Annotated[int, Field(ge=1, le=1024)] = 2
    timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Bound on every call to the broker."""


class RedisSettings(Section):
    """The message queue that carries parameters."""

    url: SecretStr = SecretStr("")
    """``redis://…`` of an existing server (set it as ONEREC_REDIS__URL, never in argv); empty starts the embedded one."""
    timeout_s: Annotated[float, Field(gt=0)] = 10.0
    keep_s: Positive = 3600
    """Parameter versions disappear after this time at the latest."""


class SplitSettings(Section):
    """Time split of a log by day number, counted from the day of its first session (0)."""

    warm_days: Annotated[int, Field(ge=0)] = 4
    """Days 0..warm_days-1 prime the models before streaming."""
    stream_days: Positive = 3
    """The days after that are streamed."""
    test_days: Positive = 2
    """The days after that are held out."""


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
    encoder_blocks: list[Annotated[int, Field(ge=0)]] = []
    """Blocks of the encoder, from 0, that have a mixture."""
    decoder_blocks: list[Annotated[int, Field(ge=0)]] = []
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
    lazy: LazySettings = LazySettings()
    """Read by ``lazy_decoder`` alone."""
    session_items: Annotated[int, Field(ge=2)] = 5
    """Items of a session that ``session_decoder`` generates together."""
    d_model: Annotated[int, Field(ge=8)] = 64
    heads: Positive = 4
    encoder_layers: Positive = 1
    """The lazy decoder has no encoder."""
    decoder_layers: Positive = 1
    begin: Literal["learned", "newest_event"] = "learned"
    """What the decoder of V1 reads first: a learned vector, or that and the encoding of the user's newest event, a straight
    way from one item to the next where users are few and events fewer."""
    ffn: Positive = 128
    """Hidden width of a feed-forward network: two matrices with GELU, in the lazy decoder SwiGLU (three)."""
    levels: Annotated[int, Field(ge=2, le=5)] = 3
    codes: Annotated[int, Field(ge=2, le=65536)] = 96
    """Codebook size N_t of every level."""
    feature_width: Annotated[int, Field(ge=4)] = 16
    """Width of the author, tag, time, play, duration and label embeddings."""
    author_width: Annotated[int, Field(ge=0)] = 0
    """Width of the author embedding where it differs; 0 is ``feature_width``."""
    static_fields: list[str] = []
    """Profile fields (in this order) that enter the user-static pathway beside the user id."""
    static_width: Annotated[int, Field(ge=4)] = 16
    static_buckets: Annotated[int, Field(ge=2)] = 1024
    user_buckets: Annotated[int, Field(ge=2)] = 4096
    item_buckets: Annotated[int, Field(ge=2)] = 8192
    """Rows of the hashed item (vid) table; row 0 is padding."""
    author_buckets: Annotated[int, Field(ge=2)] = 4096
    tag_buckets: Annotated[int, Field(ge=2)] = 1024
    short_length: Annotated[int, Field(ge=1)] = 20
    positive_length: Annotated[int, Field(ge=1)] = 32
    lifelong_length: Annotated[int, Field(ge=0)] = 0
    """Representatives kept by the lifelong compression; 0 turns the pathway off."""
    lifelong_queries: Positive = 8
    lifelong_blocks: Positive = 2
    vid_input: bool = True
    """A history item is known by the embedding of its hashed id."""
    sid_input: bool = True
    """A history item is known by its semantic ID's code embeddings (shared with the decoder)."""
    side_inputs: bool = True
    """A history event also brings author, tags, time, play time, duration and labels."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    moe: MoeSettings = MoeSettings()

    @model_validator(mode="after")
    def _consistent(self) -> PolicySettings:
        lazy = self.lazy
        if self.d_model % self.heads:
            raise ValueError(f"policy.heads must divide policy.d_model, got {self.heads} and {self.d_model}")
        if not (self.vid_input or self.sid_input):
            raise ValueError("policy.vid_input and policy.sid_input must not both be false")
        if self.begin != "learned" and self.architecture == "lazy_decoder":
            raise ValueError("policy.begin must be 'learned' with policy.architecture lazy_decoder, which encodes no event")
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


class AlignmentSettings(Section):
    """QFormer alignment of content with behaviour (OneRec technical report, section "Tokenizer").

    The defaults suit a catalogue of some ten thousand items; larger ones have more pairs and bear many more steps.
    """

    width: Annotated[int, Field(ge=8)] = 384
    """d_t of queries and content tokens; the report uses 512. One narrower than the content loses some of it."""
    queries: Positive = 4
    layers: Positive = 4
    heads: Positive = 8
    literal: bool = False
    """The update as printed in the report (no residual connections) instead of pre-norm residuals."""
    steps: Positive = 150
    batch: Annotated[int, Field(ge=2)] = 512
    """Item pairs of a step; each other pair's second item is a negative."""
    learning_rate: Rate = 3e-4
    """Of the QFormer."""
    caption_learning_rate: Rate = 2e-3
    """Of the caption decoder's trained parts, which begin from nothing."""
    weight_decay: Weight = 0.01
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    temperature: Annotated[float, Field(gt=0)] = 0.1
    symmetric: bool = False
    """Contrast in both directions of a pair instead of one."""
    popularity_correction: Share = 1.0
    """How much of the log of an item's share of the pairs is taken from its logit as a negative: with 0 (the report's
    loss) likeness is learned relative to popularity, with 1 popular items come closer to all they are paired with."""
    contrast_weight: Weight = 1.0
    caption_weight: Weight = 4.0
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
    hidden: list[Positive] = [512, 256, 128]
    epochs: Positive = 60
    """Of these, the first ``warm_up`` are without codes."""
    warm_up: Annotated[int, Field(ge=0)] = 0
    """Codebooks start from k-means after this many epochs: on random weights (0) the first level may collapse."""
    batch: Positive = 1024
    learning_rate: Rate = 1e-3
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
    content_width: Positive = 32
    collaborative_weight: Weight = 1.0
    content_weight: Weight = 0.5
    window: Positive = 10
    """Two items of one user co-occur when they are at most this many positions apart."""
    alignment: AlignmentSettings = AlignmentSettings()
    method: Literal["rq_kmeans", "balanced", "rq_vae"] = "rq_kmeans"
    backend: Literal["auto", "torch", "faiss"] = "auto"
    """Who runs k-means; ``auto`` takes faiss where it is installed."""
    iterations: Positive = 25
    balanced_method: Literal["capacity", "mincost"] = "capacity"
    """``mincost`` finds the best balanced assignment, for small catalogues only."""
    rq_vae: RqVaeSettings = RqVaeSettings()
    dedup: Literal["none", "next_best", "append_level"] = "next_best"
    """``next_best`` gives items that share a semantic ID different last codes where their prefix has codes left;
    ``append_level`` numbers them by a last level of its own, which is one of ``policy.levels``."""
    online: OnlineSettings = OnlineSettings()


class PretrainSettings(Section):
    """Next-token prediction before streaming: on initial histories, then on the warm window."""

    history_epochs: Annotated[int, Field(ge=0)] = 1
    warm_epochs: Annotated[int, Field(ge=0)] = 1
    targets_per_context: Positive = 8
    batch_contexts: Positive = 64
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    """Threads that each take a share of every batch; their number is part of the result (order of summation)."""
    learning_rate: Rate = 1e-3
    sparse_learning_rate: Rate = 3e-2
    """Of the id tables: about how far a row's first update moves it; the n-th moves it by this over sqrt(n)."""
    warmup_share: Share = 0.02
    weight_decay: Weight = 0.01


class RewardSettings(Section):
    """The preference model (OneRec technical report, section 2.4.1)."""

    width: Positive = 32
    history: Positive = 100
    epochs: Positive = 1
    batch: Positive = 512
    learning_rate: Rate = 2e-3
    max_weight: Weight = 20.0
    """Objective weights are 1 / prevalence, clipped here."""


class FilterSettings(Section):
    """RSFT: keep the better half of the sessions by play duration (OneRec technical report, section 3.3)."""

    window: Positive = 100_000
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
    sparse_learning_rate: Rate = 1e-4
    """The published rate, with row-wise Adagrad in place of an optimizer that the report does not name."""
    weight_decay: Weight = 0.01
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    drain_s: Annotated[float, Field(ge=0)] = 60.0
    """How long to wait at the end of a finite log for outstanding groups."""


class SyncSettings(Section):
    """Parameter push."""

    every: Positive = 1000
    """Steps between two parameter versions."""
    max_lag: Annotated[int, Field(ge=0)] = 2
    """Groups that are more versions behind the newest published one are dropped."""


class RlSettings(Section):
    """Reinforcement learning (OneRec technical report, sections 2.4 and 3.3)."""

    rate: Share = 0.01
    """Share of users (by a hash of user and day) for whom rollouts are requested."""
    group_size: Annotated[int, Field(ge=2, le=2048)] = 512
    groups_per_step: Positive = 4
    """Groups trained per step at most, by all ranks."""
    max_outstanding: Positive = 64
    """Requests in flight, of all ranks; beyond it new ones are skipped and counted."""
    eps: Annotated[float, Field(gt=0, lt=1)] = 0.2
    delta: Annotated[float, Field(ge=0)] = 0.1
    lambda_preference: Weight = 0.1
    lambda_format: Weight = 0.1
    format_samples: Annotated[int, Field(ge=0)] = 0
    """K of the format reward; 0 means round(5 G / 128)."""


class RolloutSettings(Section):
    """The rollout fleet."""

    actors: Positive = 2
    actor_cpus: Annotated[float, Field(gt=0)] = 0.5
    batch: Positive = 4
    """Requests an actor takes at once."""
    attempts: Positive = 3
    timeout_s: Annotated[float, Field(gt=0)] = 60.0


class EvaluationSettings(Section):
    """Offline evaluation by the frozen protocol."""

    beam: Annotated[int, Field(ge=1)] = 128
    max_users: Annotated[int, Field(ge=0)] = 0
    """Evaluate a seeded sample of this many users; 0 means all."""
    bootstrap: Positive = 1000
    mask_seen: bool = True


class SimulatorSettings(Section):
    """The simulator's size."""

    items: Annotated[int, Field(ge=50)] = 8000
    users: Annotated[int, Field(ge=10)] = 1000
    days: Annotated[int, Field(ge=3)] = 14
    content_tokens: Annotated[int, Field(ge=1, le=64)] = 1
    """Content vectors of an item: 1 is its own, more are as many noisy linear views of it."""
    requests_per_user: Positive = 70


class Settings(BaseSettings):
    """The whole tree. Load it with `load_settings`."""

    model_config = SettingsConfigDict(
        extra="forbid",
        env_prefix="ONEREC_",
        env_nested_delimiter="__",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    stream: StreamSettings = StreamSettings()
    redis: RedisSettings = RedisSettings()
    split: SplitSettings = SplitSettings()
    policy: PolicySettings = PolicySettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    pretrain: PretrainSettings = PretrainSettings()
    reward: RewardSettings = RewardSettings()
    filter: FilterSettings = FilterSettings()
    trainer: TrainerSettings = TrainerSettings()
    sync: SyncSettings = SyncSettings()
    rl: RlSettings = RlSettings()
    rollout: RolloutSettings = RolloutSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    simulator: SimulatorSettings = SimulatorSettings()

    @model_validator(mode="after")
    def _every_rank_has_a_part(self) -> Settings:
        ranks = self.trainer.ranks
        for name, value in (
            ("stream.partitions", self.stream.partitions),
            ("rl.groups_per_step", self.rl.groups_per_step),
            ("rl.max_outstanding", self.rl.max_outstanding),
        ):
            if ranks > value:
                raise ValueError(f"trainer.ranks must be at most {name} ({value}), got {ranks}")
        return self


def load_settings(profile: str | Path = "", overrides: list[str] | None = None) -> Settings:
    """Read a profile (a shipped name, or a path to a .toml or resolved .json), the environment, ``key.sub=value`` overrides.

    Raises:
        SettingsError: one line that names the key, the value and what is accepted.
    """
    tree = _read_profile(profile) if profile else {}

    class Sourced(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del dotenv_settings, file_secret_settings  # neither is read
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=tree)

    try:
        settings = Sourced(**_override_tree(overrides or []))
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None
    return Settings.model_construct(settings.model_fields_set, **dict(settings))  # of a class that can be pickled


def save_settings(settings: Settings, path: Path) -> None:
    """Write the resolved settings without secrets (those come from the environment again)."""
    path.write_text(settings.model_dump_json(indent=2, exclude={"redis": {"url"}}))


def _read_profile(profile: str | Path) -> dict[str, Any]:
    path = Path(profile)
    if path.suffix not in {".toml", ".json"}:
        path = PROFILES / f"{profile}.toml"
    try:
        text = path.read_text()
        tree: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        return tree
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.toml")))
        raise SettingsError(
            f"profile {str(profile)!r} does not exist; shipped profiles: {known}, or a path to a .toml file"
        ) from None
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"profile {path} cannot be parsed: {error}") from None


def _override_tree(overrides: list[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for override in overrides:
        key, separator, value = override.partition("=")
        *parents, leaf = key.strip().split(".")
        if not separator or not leaf:
            raise SettingsError(f"setting {override!r}: expected key=value, for example rl.rate=0.05")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        try:
            node[leaf] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            node[leaf] = value
    return tree


def _one_line(error: ValidationError) -> str:
    lines = []
    for issue in error.errors(include_url=False):
        key = ".".join(str(part) for part in issue["loc"]) or "settings"
        shown = "" if "url" in key or isinstance(issue["input"], dict) else f", got {issue['input']!r}"
        lines.append("unknown key " + key if issue["type"] == "extra_forbidden" else f"{key}: {issue['msg']}{shown}")
    return "; ".join(lines)
