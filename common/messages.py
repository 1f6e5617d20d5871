"""Every message on the wire, as a pydantic model.

A message carries ``schema_version``; unknown fields within a known schema are rejected, and a message of a newer
schema is rejected with "upgrade consumers first" (so that an old consumer never guesses). `decode` is the one pure
validator that every reader of a topic applies: it returns the message or the one-line reason it is a dead letter.
"""

from __future__ import annotations

import json
from enum import IntFlag
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SCHEMA_VERSION = 1
NO_ITEM = -1
"""The item id of a candidate whose semantic ID belongs to no item (an illegal candidate)."""

Id = Annotated[int, Field(ge=0, lt=2**63)]
TimeMs = Annotated[int, Field(ge=0, lt=2**53)]
DurationMs = Annotated[int, Field(ge=0, le=7 * 86_400_000)]


class Label(IntFlag):
    """What a user did with an impression; several may hold at once."""

    CLICK = 1
    LIKE = 2
    FOLLOW = 4
    FORWARD = 8
    COMMENT = 16
    COLLECT = 32
    PROFILE_ENTER = 64
    DISLIKE = 128
    LONG_VIEW = 256


POSITIVE = Label.LIKE | Label.FOLLOW | Label.FORWARD | Label.COMMENT | Label.COLLECT | Label.LONG_VIEW
"""A positive event is an explicit interaction or a long view: what the positive-feedback pathway reads."""

LogProb = Annotated[float, Field(le=1e-6, allow_inf_nan=False)]
LabelBits = Annotated[int, Field(ge=0, lt=512)]
ArmName = Annotated[str, Field(max_length=32)]


class Message(BaseModel):
    """Base of all messages: immutable, strict about unknown fields, loud about newer schemas."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION

    @model_validator(mode="before")
    @classmethod
    def _refuse_newer_schema(cls, data: Any) -> Any:
        if isinstance(data, dict):
            version = data.get("schema_version", SCHEMA_VERSION)
            if isinstance(version, int) and version > SCHEMA_VERSION:
                raise ValueError(f"schema_version {version} is newer than {SCHEMA_VERSION}: upgrade consumers first")
            if version != SCHEMA_VERSION:
                raise ValueError(f"schema_version must be {SCHEMA_VERSION}, got {version!r}")
        return data

    def to_bytes(self) -> bytes:
        """The message as UTF-8 JSON, its form on Kafka."""
        return self.model_dump_json().encode()


class Part(BaseModel):
    """Base of what lies inside messages."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Events(Part):
    """A user's past events, oldest first, one list per column; all lists have the same length.

    ``time_ms`` 0 means the time is unknown (initial histories without times); ``play_ms`` and ``duration_ms`` 0
    likewise mean unknown.
    """

    item_id: list[Id] = []
    time_ms: list[TimeMs] = []
    play_ms: list[DurationMs] = []
    duration_ms: list[DurationMs] = []
    labels: list[LabelBits] = []

    @model_validator(mode="after")
    def _columns_agree(self) -> Self:
        lengths = {name: len(getattr(self, name)) for name in type(self).model_fields}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"event columns must have one length, got {lengths}")
        return self


class Item(Message):
    """One item of the catalogue. ``tags`` and ``author_id`` are category ids; 0 tags means none are known."""

    item_id: Id
    author_id: Id = 0
    tags: list[Id] = []
    music_id: Id = 0
    duration_ms: DurationMs = 0
    publish_ms: TimeMs = 0
    title: str = ""
    category: str = ""


class ItemEvent(Message):
    """On the topic ``items``: an item that is new (with its content vectors, if any), or one that is removed.

    An id that the index has already keeps what it has: a semantic ID never moves.
    """

    item: Item
    content: Annotated[list[list[Annotated[float, Field(allow_inf_nan=False)]]], Field(max_length=1280)] = []
    removed: bool = False


class User(Message):
    """A user's static profile (field name -> category id) and the history from before the log begins."""

    user_id: Id
    profile: dict[str, Id] = {}
    history: Events = Events()


class Impression(Part):
    """One item shown to a user, and what the user did with it. ``tab`` is the surface it was shown on."""

    item_id: Id
    time_ms: TimeMs
    play_ms: DurationMs = 0
    duration_ms: DurationMs = 0
    labels: LabelBits = 0
    tab: Annotated[int, Field(ge=0, lt=256)] = 0
    generated: Annotated[list[LogProb], Field(max_length=5)] = []
    """Log-probabilities, by level, with which the policy generated the item; empty if it came from somewhere else."""


class Session(Message):
    """The impressions of one request (or of one window, where a data set has no requests), oldest first."""

    session_id: Annotated[str, Field(min_length=1, max_length=128)]
    user_id: Id
    time_ms: TimeMs
    impressions: Annotated[list[Impression], Field(min_length=1, max_length=1000)]
    arm: ArmName = ""
    """The arm of an online experiment that made the list (`RecommendResponse.arm`), or none. Nothing is trained on it."""

    @property
    def play_ms(self) -> int:
        """Total play duration, the score of the session filter (OneRec technical report, section 3.3)."""
        return sum(impression.play_ms for impression in self.impressions)


class UserContext(Part):
    """All that the policy and the preference model may know of a user at a request (DESIGN 3.4)."""

    user_id: Id
    profile: dict[str, Id] = {}
    time_ms: TimeMs
    tab: Annotated[int, Field(ge=0, lt=256)] = 0
    events: Events = Events()


class RolloutRequest(Message):
    """Trainer -> fleet: generate a group for this context. The id is a function of run and stream position."""

    request_id: str
    run: str
    topic: str
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]
    context: UserContext
    digest: str
    tokenizer_version: str
    index_version: Annotated[int, Field(ge=1)]
    requested_ms: TimeMs


class Sampler(Part):
    """How candidates were generated."""

    kind: Literal["beam", "sample"] = "beam"
    width: Annotated[int, Field(ge=1, le=4096)] = 512
    constrained: bool = False
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None


class RolloutGroup(Message):
    """Fleet -> trainer: the scored candidates of one request, and where they came from (DESIGN 3.5).

    ``codes`` and ``log_probs`` are G x levels (log-probs per level, fp32 of the behaviour policy); ``item_ids`` holds
    `NO_ITEM` and ``rewards`` holds null for illegal candidates. With ``failure`` set the group has no candidates:
    the reward or the generation could not be had, and nothing is made up in its place (DESIGN 3.7).
    """

    request_id: str
    run: str
    topic: str
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]
    digest: str
    actor: str
    parameter_version: Annotated[int, Field(ge=0)]
    reward_version: str = ""
    tokenizer_version: str
    index_version: Annotated[int, Field(ge=1)]
    sampler: Sampler
    codes: list[list[Annotated[int, Field(ge=0)]]] = []
    log_probs: list[list[LogProb]] = []
    item_ids: list[Annotated[int, Field(ge=NO_ITEM)]] = []
    rewards: list[Annotated[float, Field(ge=0, allow_inf_nan=False)] | None] = []
    failure: str = ""
    requested_ms: TimeMs
    generated_ms: Annotated[float, Field(ge=0)] = 0.0
    scored_ms: Annotated[float, Field(ge=0)] = 0.0
    produced_ms: TimeMs

    @model_validator(mode="after")
    def _candidates_agree(self) -> Self:
        size = len(self.codes)
        lengths = (len(self.log_probs), len(self.item_ids), len(self.rewards))
        if any(length != size for length in lengths):
            raise ValueError(f"group columns must have one length, got codes {size}, others {lengths}")
        if bool(self.failure) == bool(size):
            raise ValueError(f"a group has either candidates or a failure, got {size} and {self.failure!r}")
        if any(len(c) != len(p) or len(c) != len(self.codes[0]) for c, p in zip(self.codes, self.log_probs, strict=True)):
            raise ValueError("codes and log_probs must have one entry per level")
        for item, reward in zip(self.item_ids, self.rewards, strict=True):
            if (item == NO_ITEM) != (reward is None):
                raise ValueError(f"an item has a reward and an illegal candidate has none, got {item} and {reward}")
        return self


class DeadLetter(Message):
    """A message that did not validate, its position, a one-line reason, and its bytes (head only beyond 64 KiB)."""

    topic: str
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]
    reason: str
    length: Annotated[int, Field(ge=0)]
    xxh128: str
    head_base64: str


class ScoreRequest(Message):
    """Body of ``POST /v1/score``: one user's context and up to 2048 candidate items."""

    context: UserContext
    item_ids: Annotated[list[Id], Field(min_length=1, max_length=2048)]
    index_version: Annotated[int, Field(ge=1)]
    reward_version: Annotated[str, Field(max_length=64)] = ""
    """The model that must answer; empty leaves it to the service."""


class ScoreResponse(Message):
    """Each item's reward, P-Score and tower probabilities (by objective), and the model and index that gave them."""

    reward_version: str
    index_version: Annotated[int, Field(ge=1)]
    rewards: list[float]
    """What reinforcement learns from: the profile's terms combined, rules applied."""
    p_score: list[float]
    towers: dict[str, list[float]]


class RecommendRequest(Message):
    """Body of ``POST /v1/recommend``: for whom, and how many items."""

    user_id: Id
    count: Annotated[int, Field(ge=1, le=100)] = 10
    time_ms: TimeMs | None = None
    """When the list is asked for; null means now."""
    tab: Annotated[int, Field(ge=0, lt=256)] = 0
    exclude: Annotated[list[Id], Field(max_length=1000)] = []
    """Items not to recommend, beside those that the user has been shown."""


class Recommendation(Part):
    """One recommended item. ``generated`` goes back in the session's `Impression`, so that what the policy made is known."""

    item_id: Id
    generated: Annotated[list[LogProb], Field(max_length=5)] = []
    """Log-probabilities, by level, with which the policy generated the item; empty if it came from somewhere else."""


class RecommendResponse(Message):
    """A list, best first, and where it came from. It is shorter than asked for only if there are no more items."""

    items: list[Recommendation]
    source: Literal["generated", "cached", "popular"]
    """Made for this request; left over from an earlier one of the user; or the same for everybody."""
    degraded: bool
    """Whether generation was left out because of load."""
    age_s: Annotated[float, Field(ge=0)] = 0.0
    """How long ago the list was generated."""
    parameter_version: Annotated[int, Field(ge=0)] | None = None
    reward_version: str = ""
    """The reward model that put them in order; empty: the most probable first."""
    index_version: Annotated[int, Field(ge=1)]
    arm: ArmName = ""
    """The arm of an online experiment that the user belongs to; goes back in the `Session`."""


M = TypeVar("M", bound=Message)


def decode(model: type[M], value: bytes | None) -> M | str:
    """Validate a message's bytes: the message, or the one-line reason why it is refused. Pure; never raises."""
    if value is None:
        return "empty message (null value)"
    try:
        return model.model_validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "message"
        return " ".join(f"{where}: {first['msg']}".split())[:500]
    except (ValueError, RecursionError, json.JSONDecodeError) as error:
        return " ".join(str(error).split())[:500]
