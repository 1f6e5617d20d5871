"""Every message on the wire, as a pydantic model.

A message carries ``schema_version``; unknown fields within a known schema are rejected, and a message of a newer
schema is rejected with "upgrade consumers first" (so that an old consumer never guesses). `decode` is the one pure
validator that every reader of a topic applies: it returns the message or the one-line reason it is a dead letter.
"""

from __future__ import annotations

import json
from enum import IntFlag
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

SCHEMA_VERSION = 1
NO_ITEM = -1
"""The item id of a candidate whose semantic ID belongs to no item (an illegal candidate)."""
MOST_TAGS = 64
"""Of one item."""

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


def _weigh_something(terms: dict[str, float]) -> dict[str, float]:
    if terms and not any(terms.values()):
        raise ValueError(f"must name a term with a weight above 0, got {terms}")
    return terms


Terms = Annotated[
    dict[Literal["p_score", "ctr", "lvtr", "vtr", "ltr", "wtr", "cmtr"], Annotated[float, Field(ge=0, allow_inf_nan=False)]],
    AfterValidator(_weigh_something),
]
"""Probabilities of the preference model by their weights in a mean."""


def _refuse_other_schema(version: Any) -> Any:
    """Of the field, not of the message: a validator before a whole message has its JSON made into objects to look at."""
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ValueError(f"schema_version {version} is newer than {SCHEMA_VERSION}: upgrade consumers first")
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema_version must be {SCHEMA_VERSION}, got {version!r}")
    return version


class Message(BaseModel):
    """Base of all messages: immutable, strict about unknown fields, loud about newer schemas."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    schema_version: Annotated[int, BeforeValidator(_refuse_other_schema)] = SCHEMA_VERSION
    """Rises when a field changes its meaning or goes; readers refuse what is newer than themselves."""

    def to_bytes(self) -> bytes:
        """The message as UTF-8 JSON, its form on Kafka."""
        return self.model_dump_json().encode()


class Part(BaseModel):
    """Base of what lies inside messages."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


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
    """Bits of `Label`."""

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
    tags: Annotated[list[Id], Field(max_length=MOST_TAGS)] = []
    """Category ids. The index has room for the longest list in every row."""
    music_id: Id = 0
    duration_ms: DurationMs = 0
    publish_ms: TimeMs = 0
    """When it was published; its age counts from then."""
    title: str = ""
    """For people only."""
    category: str = ""
    """For people, and for captions."""


class ItemEvent(Message):
    """On the topic ``items``: an item that is new (with its content vectors, if any), or one that is removed.

    An id that the index has already keeps what it has: a semantic ID never moves.
    """

    item: Item
    content: Annotated[list[list[Annotated[float, Field(allow_inf_nan=False)]]], Field(max_length=1280)] = []
    """Content vectors of one width, one or several."""
    removed: bool = False
    """The item leaves the catalogue; its semantic ID stays its own."""


class User(Message):
    """A user's static profile (field name -> category id) and the history from before the log begins."""

    user_id: Id
    profile: dict[str, Id] = {}
    history: Events = Events()


class Impression(Part):
    """One item shown to a user, and what the user did with it. ``tab`` is the surface it was shown on."""

    item_id: Id
    time_ms: TimeMs
    """When it was shown."""
    play_ms: DurationMs = 0
    """How long it was played."""
    duration_ms: DurationMs = 0
    labels: LabelBits = 0
    """Bits of `Label`."""
    tab: Annotated[int, Field(ge=0, lt=256)] = 0
    """The surface it was shown on."""
    generated: Annotated[list[LogProb], Field(max_length=5)] = []
    """Log-probabilities, by level, with which the policy generated the item; empty if it came from somewhere else."""


class Session(Message):
    """The impressions of one request (or of one window, where a data set has no requests), oldest first."""

    session_id: Annotated[str, Field(min_length=1, max_length=128)]
    """A session that comes twice counts once."""
    user_id: Id
    time_ms: TimeMs
    """When the list was asked for; times are the platform's, never a reader's clock."""
    impressions: Annotated[list[Impression], Field(min_length=1, max_length=1000)]
    arm: ArmName = ""
    """The arm of an online experiment that made the list (`RecommendResponse.arm`), or none. Nothing is trained on it."""

    @property
    def play_ms(self) -> int:
        """Total play duration, the score of the session filter (OneRec technical report, section 3.3)."""
        return sum(impression.play_ms for impression in self.impressions)


class UserContext(Part):
    """All that the policy and the preference model may know of a user at a request."""

    user_id: Id
    profile: dict[str, Id] = {}
    """Field name -> category id."""
    time_ms: TimeMs
    """When the list is asked for."""
    tab: Annotated[int, Field(ge=0, lt=256)] = 0
    """The surface it is for."""
    events: Events = Events()
    """The user's history before the request, as far as models read it."""


class RolloutRequest(Message):
    """Trainer -> fleet: generate a group for this context. The id is a function of run and stream position."""

    request_id: str
    """A function of run, topic, partition and offset: sent again after a crash, it is the same."""
    run: str
    topic: str
    """Of the session that caused it, with its partition and offset."""
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]
    context: UserContext
    digest: str
    """Of the context: a group that answers another context is dropped."""
    tokenizer_version: str
    """Fingerprint of the codebooks."""
    index_version: Annotated[int, Field(ge=1)]
    """The item index that decides which candidates are items."""
    requested_ms: TimeMs


class Sampler(Part):
    """How candidates were generated."""

    kind: Literal["beam", "sample"] = "beam"
    """The best by beam search, or draws."""
    width: Annotated[int, Field(ge=1, le=4096)] = 512
    """Candidates of a group."""
    constrained: bool = False
    """Whether only items can come out."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Of draws: codes of a level that may be drawn."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of draws: the share of their probability that may be drawn."""


class RolloutGroup(Message):
    """Fleet -> trainer: the scored candidates of one request, and where they came from.

    ``codes`` and ``log_probs`` are G x levels (log-probs per level, fp32 of the behaviour policy); ``item_ids`` holds
    `NO_ITEM` and ``rewards`` holds null for illegal candidates. With ``failure`` set the group has no candidates:
    the reward or the generation could not be had, and nothing is made up in its place.
    """

    request_id: str
    """Of the request that it answers, as are the five after it."""
    run: str
    topic: str
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]
    digest: str
    actor: str
    """Who generated it."""
    parameter_version: Annotated[int, Field(ge=0)]
    """The trainer's step whose parameters generated it."""
    reward_version: str = ""
    """The preference model that scored it."""
    tokenizer_version: str
    index_version: Annotated[int, Field(ge=1)]
    sampler: Sampler
    codes: list[list[Annotated[int, Field(ge=0, lt=2**16)]]] = []
    """Semantic IDs, one code a level."""
    log_probs: list[list[LogProb]] = []
    """Of the policy that generated them, by level."""
    item_ids: list[Annotated[int, Field(ge=NO_ITEM)]] = []
    rewards: list[Annotated[float, Field(ge=0, allow_inf_nan=False)] | None] = []
    """Null: no item, no reward."""
    failure: str = ""
    """Why there are no candidates."""
    requested_ms: TimeMs
    generated_ms: Annotated[float, Field(ge=0)] = 0.0
    """How long generation took."""
    scored_ms: Annotated[float, Field(ge=0)] = 0.0
    """How long scoring took."""
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
    """Where the message lies, with its partition and offset."""
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]
    reason: str
    """What is wrong, in one line."""
    length: Annotated[int, Field(ge=0)]
    """Bytes of the message."""
    xxh128: str
    """Hash of all its bytes."""
    head_base64: str
    """Its bytes, the first 64 KiB at most."""


class ScoreRequest(Message):
    """Body of ``POST /v1/score``: one user's context and up to 2048 candidate items."""

    context: UserContext
    item_ids: Annotated[list[Id], Field(min_length=1, max_length=2048)]
    index_version: Annotated[int, Field(ge=1)]
    """The index that the items are of; a service that no longer has it answers 410."""
    reward_version: Annotated[str, Field(max_length=64)] = ""
    """The model that must answer; empty leaves it to the service."""
    terms: Terms = {}
    """What the rewards of this answer are the mean of; empty leaves it to the profile. Its rules apply in any case."""
    rewards_only: bool = False
    """Whether the answer may leave out P-Scores and probabilities, seven eighths of its bytes."""


class ScoreResponse(Message):
    """Each item's reward, P-Score and tower probabilities (by objective), and the model and index that gave them."""

    reward_version: str
    index_version: Annotated[int, Field(ge=1)]
    rewards: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    """What reinforcement learns from: the profile's terms (or the request's) combined, rules applied."""
    p_score: list[float]
    """The preference model's fused score; empty where only rewards were asked for, as are the towers."""
    towers: dict[str, list[float]]
    """By objective: the predicted probability of each item."""


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
    """Best first."""
    source: Literal["generated", "cached", "popular"]
    """Made for this request; left over from an earlier one of the user; or the same for everybody."""
    degraded: bool
    """Whether generation was left out because of load."""
    age_s: Annotated[float, Field(ge=0)] = 0.0
    """How long ago the list was generated."""
    parameter_version: Annotated[int, Field(ge=0)] | None = None
    """The trainer's step whose parameters made the list; null: they were not the trainer's, or none were."""
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
