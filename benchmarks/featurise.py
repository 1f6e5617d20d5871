"""Turning contexts with 2,000 lifelong events into features is five times as fast as training on them, on one core.

The v1-0.015b profile: histories are compressed into leaves of similar items, which is most of it, anew for every context.
The rival is a training step on the same contexts with its features at hand. Events follow a user's few topics; item vectors
have 64 numbers and lie around their topics.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from benchmarks.harness import BenchResult, Claim, race
from common.compute import compute_with
from common.context import Context, UserEvents
from common.features import Featurizer, PolicyInputs
from common.item_index import ItemIndex
from common.messages import Label
from common.policy import build_policy
from common.settings import PolicySettings, Settings, load_settings
from trainer.step import SftSample, TrainingStep

Say = Callable[[str], None]
FASTER = 5.0
DAY_MS = 86_400_000


class Scale(BaseModel):
    """The benchmark's size."""

    policy: PolicySettings
    items: int = 20_000
    topics: int = 100
    events: int = 2_000
    contexts: int = 16
    targets: int = 6
    runs: int = 5


def run(data: Path, on_progress: Say) -> BenchResult:  # noqa: ARG001 - everything is synthetic
    """Takes about two minutes."""
    return compare(Scale(policy=load_settings("v1-0.015b").policy), on_progress)


def compare(scale: Scale, on_progress: Say) -> BenchResult:
    """The benchmark at any scale."""
    compute_with(threads=1)
    rng = np.random.default_rng(0)
    index, topic = catalogue(scale, rng)
    samples = [sample(scale, index, topic, user, rng) for user in range(scale.contexts)]
    contexts = [one.context for one in samples]
    step = TrainingStep(build_policy(scale.policy, 0), Known(Featurizer(scale.policy, index), contexts), Settings())

    def ours() -> None:
        Featurizer(scale.policy, index)(contexts)  # a new one has compressed nothing yet

    def theirs() -> None:
        step.run(samples, [], 1)

    on_progress(f"{scale.contexts} contexts, {scale.runs} times")
    timed = race(ours, theirs, scale.runs)
    claim = Claim(claim=f"at least {FASTER:g} times as fast", holds=timed.ratio >= FASTER, figures={"ratio": timed.ratio})
    return BenchResult(
        name="featurise",
        value=timed.value / scale.contexts,
        unit="seconds a context",
        rival=timed.rival_value / scale.contexts,
        ratio=timed.ratio,
        spread=timed.spread,
        details={
            "seconds": {"ours": timed.ours, "rival": timed.rival},
            "claims": [claim],
            "scale": scale.model_dump(mode="json"),
        },
    )


class Known(Featurizer):
    """Gives the features of some contexts, which it has made once."""

    def __init__(self, featurizer: Featurizer, contexts: list[Context]) -> None:
        super().__init__(featurizer.policy, featurizer.index)
        self._inputs = featurizer(contexts)

    def __call__(self, contexts: list[Context]) -> PolicyInputs:  # noqa: ARG002 - the only ones that it is asked for
        """Their features."""
        return self._inputs


def catalogue(scale: Scale, rng: np.random.Generator) -> tuple[ItemIndex, np.ndarray]:
    """Items, and the topic of each."""
    topic = rng.integers(0, scale.topics, scale.items)
    centres = rng.normal(size=(scale.topics, 64))
    vectors = centres[topic] + 0.5 * rng.normal(size=(scale.items, 64))
    zeros = np.zeros(scale.items, np.int64)
    index = ItemIndex.build(
        1,
        "synthetic",
        scale.policy.codes,
        item_ids=np.arange(scale.items),
        sids=rng.integers(0, scale.policy.codes, (scale.items, scale.policy.levels)),
        author=rng.integers(0, 2_000, scale.items),
        tags=topic[:, None],
        music=zeros,
        duration_ms=rng.integers(5_000, 120_000, scale.items),
        publish_ms=zeros,
        popularity=zeros.astype(np.float32),
        vectors=vectors.astype(np.float32),
    )
    return index, topic


def sample(scale: Scale, index: ItemIndex, topic: np.ndarray, user: int, rng: np.random.Generator) -> SftSample:
    """A user with that many events of ten topics, and what follows."""
    liked = np.flatnonzero(np.isin(topic, rng.choice(scale.topics, min(10, scale.topics), replace=False)))
    items = rng.choice(liked, scale.events + scale.targets)
    past = items[: scale.events]
    times = np.sort(rng.integers(0, 100 * DAY_MS, scale.events))
    duration = np.asarray(index.duration_ms)[past].astype(np.int64)
    labels = np.where(rng.random(scale.events) < 0.3, int(Label.LONG_VIEW), 0)
    events = UserEvents(past, times, rng.integers(0, duration), duration, labels)
    return SftSample(Context(user, 101 * DAY_MS, events=events), index.sids[items[scale.events :]].astype(np.int64))
