"""Where the loop reads and writes: Kafka, Redis, the time split of a log, rollout actors, evaluation, the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from common.messages import Terms
from common.settings.section import Positive, Section


class StreamSettings(Section):
    """Kafka."""

    bootstrap: str = ""
    """``HOST:PORT`` of an existing broker; empty starts the embedded one."""
    prefix: str = "onerec"
    """First part of every topic name; `onerec up` appends the run's name."""
    partitions: Annotated[int, Field(ge=1, le=1024)] = 2
    """Of ``sessions``, ``rollout-requests`` and ``rollout-groups``; a user's are all in one."""
    timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Bound on every call to the broker."""


class RedisSettings(Section):
    """The message queue that carries parameters."""

    url: SecretStr = SecretStr("")
    """``redis://…`` of an existing server (set it as ONEREC_REDIS__URL, never in argv; or let ONEREC_REDIS__URL_FILE name a
    file that holds it, as containers mount secrets); empty starts the embedded one."""
    timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Bound on every call to Redis."""
    keep_s: Positive = 3600
    """Parameter versions disappear after this time at the latest."""

    @model_validator(mode="before")
    @classmethod
    def _read_url_file(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "url_file" not in given:
            return given
        others = {name: value for name, value in given.items() if name != "url_file"}
        if others.get("url"):
            raise ValueError("ONEREC_REDIS__URL and ONEREC_REDIS__URL_FILE are both given; give one")
        try:
            return others | {"url": Path(given["url_file"]).read_text().strip()}
        except OSError as error:
            raise ValueError(f"ONEREC_REDIS__URL_FILE: {given['url_file']} cannot be read: {error.strerror}") from None


class SplitSettings(Section):
    """Time split of a log by day number, counted from the day of its first session (0)."""

    warm_days: Annotated[int, Field(ge=0)] = 4
    """Days 0..warm_days-1 prime the models before streaming."""
    stream_days: Positive = 3
    """The days after that are streamed."""
    test_days: Positive = 2
    """The days after that are held out."""


class RolloutSettings(Section):
    """The rollout fleet."""

    actors: Positive = 2
    """Processes that generate, each with a copy of the parameters' structure and one shared copy of their bytes."""
    actor_cpus: Annotated[float, Field(gt=0)] = 0.5
    """What an actor takes of Ray's count of cores; below 1 several share one."""
    actor_gpus: Annotated[float, Field(ge=0)] = 0.0
    """Share of a GPU that an actor computes on; 0 is the CPU."""
    batch: Positive = 4
    """Requests an actor takes at once."""
    attempts: Positive = 3
    """Times that a request is tried before it becomes a dead letter."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """An actor that takes longer for its batch is replaced."""


class RecommendArm(Section):
    """One arm of an online experiment: some of the users, and what is different for them. None: as for everybody."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,31}$")] = "all"
    """In metrics, responses and the sessions that come back."""
    share: Annotated[float, Field(gt=0)] = 1.0
    """Of the users, over the sum of all arms' shares."""
    beam: Annotated[int, Field(ge=1, le=4096)] | None = None
    """In place of ``recommend.beam``."""
    select: Annotated[int, Field(ge=0, le=2048)] | None = None
    """In place of ``recommend.select``."""
    terms: Terms = Field(default={})
    """In place of ``reward.terms``, by which the arm's lists are put in order; empty: as for everybody."""
    weights: str = ""
    """A policy file (absolute, or in the run folder) that the arm keeps, such as pretrained/policy.safetensors; empty: the
    newest parameters. Its lists carry no log-probabilities, as these are not those of the trainer's parameters."""


class RecommendSettings(Section):
    """The recommend endpoint."""

    on: bool = False
    """Whether `onerec up` starts it."""
    beam: Annotated[int, Field(ge=1, le=4096)] = 128
    """Width of its search, which is constrained to items."""
    batch: Positive = 8
    """Requests generated for at once, at most."""
    wait_ms: Annotated[float, Field(ge=0)] = 5.0
    """How long a request waits for others to share its batch, at most."""
    budget_ms: Annotated[float, Field(gt=0)] = 350.0
    """A request that would wait longer than this for its list gets one that is there already."""
    select: Annotated[int, Field(ge=0, le=2048)] = 0
    """The reward service puts this many of the most probable items in order, the best first; 0 leaves them as they are."""
    select_ms: Annotated[float, Field(gt=0)] = 100.0
    """What it gets for that; a list that it did not order in time is served as it is."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """In which the parameters come. bf16 is half as many bytes; lists then carry no log-probabilities, as these would not be
    those of the trainer's parameters."""
    pool_users: Positive = 100_000
    """Users of whom generated items that were not served are kept."""
    pool_s: Annotated[float, Field(gt=0)] = 3600.0
    """How long they are kept."""
    arms: Annotated[tuple[RecommendArm, ...], Field(min_length=1)] = (RecommendArm(),)
    """What users are split between, by a hash of their ids; `onerec arms` compares the arms with the first."""

    @field_validator("arms")
    @classmethod
    def _names_differ(cls, arms: tuple[RecommendArm, ...]) -> tuple[RecommendArm, ...]:
        names = [arm.name for arm in arms]
        if len(set(names)) < len(names):
            raise ValueError(f"arms must have different names, got {', '.join(names)}")
        return arms

    @model_validator(mode="after")
    def _terms_order_something(self) -> RecommendSettings:
        idle = [arm.name for arm in self.arms if arm.terms and not self.selected(arm)]
        if idle:
            raise ValueError(f"recommend.arms {', '.join(idle)}: terms put nothing in order while select is 0")
        return self

    def selected(self, arm: RecommendArm) -> int:
        """How many items of an arm's lists are put in order."""
        return self.select if arm.select is None else arm.select


class DashboardSettings(Section):
    """The web page of a running loop."""

    on: bool = True
    """Whether `onerec up` serves it."""
    metrics: dict[str, str] = Field(default={})
    """Addresses of workers' metrics by name (trainer, trainer-1, rollout, reward, learner, tokenizer, recommend), where
    those that their ready files tell cannot be reached by who watches the run."""


class EvaluationSettings(Section):
    """Offline evaluation by the frozen protocol."""

    beam: Annotated[int, Field(ge=1)] = 128
    """Width of the search, which is constrained to items."""
    max_users: Annotated[int, Field(ge=0)] = 0
    """Evaluate a seeded sample of this many users; 0 means all."""
    bootstrap: Positive = 1000
    """Resamples of users behind each p-value."""
    mask_seen: bool = True
    """Leave out items of a user's history."""


class SimulatorSettings(Section):
    """The simulator's size."""

    items: Annotated[int, Field(ge=50)] = 8000
    """In the catalogue at the end of the last day."""
    users: Annotated[int, Field(ge=10)] = 1000
    """Who ask for lists."""
    days: Annotated[int, Field(ge=3)] = 14
    """Length of the log."""
    content_tokens: Annotated[int, Field(ge=1, le=64)] = 1
    """Content vectors of an item: 1 is its own, more are as many noisy linear views of it."""
    requests_per_user: Positive = 70
    """How often a user asks, on average; some are busier."""
