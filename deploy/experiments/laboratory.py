"""The world that all arms of an experiment share: simulated sessions, true rewards, a preference model, users to judge by.

Everything is made once below a cache folder. Shape legend: U users judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.simulated_sessions import Plan, Say, Sessions, make, read
from common.context import DAY_MS, Context, UserEvents
from common.item_index import ItemIndex
from common.messages import NO_ITEM, Label
from common.session_log import SessionLog
from common.settings import RewardSettings, RlSettings, Settings
from deploy.data.simulator_world import World
from deploy.experiments.own_traffic import answer
from reward_service.artefact import Artefact, load_artefact
from reward_service.inputs import InputBuilder, Requests, Targets
from reward_service.labels import TOWERS
from reward_service.rewards import P_SCORE, IndustrialReward, Rewards
from reward_service.training import train_preference_model
from rollout.engine import Candidates
from trainer.duration_reward import duration_bucket, play_ranks
from trainer.step import FeedbackSample

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


Term = Literal["p_score", "ltr", "wtr", "cmtr"]
"""A probability of a preference model; see `reward.terms`."""
HALVES = ("learned", "evaluator")


class RewardSource(Protocol):
    """What scores candidates."""

    def __call__(self, context: Context, item_ids: Ints) -> Floats:
        """A reward of each item for the user of a context."""


@dataclass(frozen=True, eq=False)
class TrueReward:
    """What the simulated users really think, on one day; an item's row in the world is its id, and so is a user's."""

    world: World
    day: int

    def __call__(self, context: Context, item_ids: Ints) -> Floats:
        """Expected rewards in 0..1."""
        return np.asarray(self.world.expected_reward(context.user_id, item_ids, self.day), np.float64)


class LearnedReward:
    """The mean of some of a preference model's probabilities, as the reward service combines them."""

    def __init__(self, artefact: Artefact, index: ItemIndex, terms: Sequence[Term]) -> None:
        self.model, self.shape = artefact.model, artefact.card.shape
        self.builder = InputBuilder(self.shape, index)
        self.rewards = Rewards(RewardSettings(terms=dict.fromkeys(terms, 1.0)))

    @torch.inference_mode()
    def __call__(self, context: Context, item_ids: Ints) -> Floats:
        """Rewards in 0..1."""
        rows = self.builder.index.rows(item_ids)
        targets = Targets(np.zeros(len(rows), np.int64), rows, np.full(len(rows), context.tab, np.int64))
        outputs = self.model(self.builder(Requests.of_contexts([context], self.shape), targets))
        towers = dict(zip(TOWERS, outputs.towers.sigmoid().double().numpy().T, strict=True))
        return self.rewards(towers | {P_SCORE: outputs.p.sigmoid().double().numpy()}, self.builder.index, rows)


@dataclass(frozen=True, eq=False)
class DampenedReward:
    """Another source's rewards, less for viral items while too many are generated."""

    source: RewardSource
    rule: IndustrialReward
    viral: npt.NDArray[np.bool_]

    def __call__(self, context: Context, item_ids: Ints) -> Floats:
        """Rewards after the rule."""
        return self.rule.apply(self.source(context, item_ids), self.viral[item_ids])


@dataclass(frozen=True, eq=False)
class Laboratory:
    """A plan's sessions and what is known of their world. ``terms`` are what rollouts are scored by."""

    plan: Plan
    folder: Path
    sessions: Sessions
    terms: tuple[Term, ...]

    @staticmethod
    def open(plan: Plan, cache: Path, on_progress: Say, terms: tuple[Term, ...]) -> Laboratory:
        """The laboratory of a plan, made now unless it is there already."""
        folder = make(plan, cache, on_progress)
        laboratory = Laboratory(plan, folder, read(plan, folder), terms)
        log = SessionLog.open(folder / "log")
        for half, name in enumerate(HALVES):
            if not (folder / name / "reward").exists():
                settings, ours = Settings(seed=half), partial(_in_half, half)
                train_preference_model(
                    log, laboratory.index, settings, folder / name, laboratory.day, on_progress, of_user=ours
                )
        return laboratory

    @property
    def index(self) -> ItemIndex:
        """The item index, made without the held-out day."""
        return self.sessions.index

    @property
    def day(self) -> int:
        """The held-out day."""
        return self.plan.simulator.days - self.plan.simulator.days // 4 - 1

    @cached_property
    def truth(self) -> TrueReward:
        """The true reward on the held-out day."""
        return TrueReward(World.load(self.folder / "log"), self.day)

    @cached_property
    def learned(self) -> LearnedReward:
        """What scores rollouts: a preference model of the days before and of one half of the users."""
        return LearnedReward(load_artefact(self.folder / HALVES[0] / "reward"), self.index, self.terms)

    @cached_property
    def p_score(self) -> LearnedReward:
        """That model's P-Score."""
        return LearnedReward(load_artefact(self.folder / HALVES[0] / "reward"), self.index, (P_SCORE,))

    @cached_property
    def evaluator(self) -> LearnedReward:
        """A preference model of the other half and another seed, which scores no rollouts: it tells reward hacking."""
        return LearnedReward(load_artefact(self.folder / HALVES[1] / "reward"), self.index, self.terms)

    @cached_property
    def log(self) -> SessionLog:
        """The plan's sessions, and those after them."""
        return SessionLog.open(self.folder / "log")

    def day_of(self, context: Context) -> int:
        """The log day of a context."""
        return (context.time_ms - self.log.manifest.day0_ms) // DAY_MS

    @cached_property
    def shown(self) -> dict[tuple[int, int], UserEvents]:
        """What every session of the log showed, and what came of it, by user and time."""
        return {(one.user_id, one.time_ms): UserEvents.from_impressions(one.impressions) for one in self.log.sessions()}

    def feedback(self, context: Context, duration_aware: bool) -> FeedbackSample:
        """What the user of a training context did with the items of that session.

        Plays are ranked among the user's earlier ones of like videos, or among all of them: raw play time.
        """
        shown = self.shown[context.user_id, context.time_ms]
        rows = self.index.rows(shown.item_id)
        codes = self.index.sids[rows[rows >= 0]].astype(np.int64)
        unknown = np.full(codes.shape, np.nan, np.float32)
        return _feedback(context, shown.take(np.flatnonzero(rows >= 0)), codes, unknown, duration_aware)

    def own_feedback(
        self, context: Context, made: Candidates, duration_aware: bool, rng: np.random.Generator
    ) -> FeedbackSample:
        """What that user does with a generated list in place of that session's; plays are ranked as in `feedback`."""
        shown = answer(self.truth.world, context, made.item_ids, self.day_of(context), rng)
        return _feedback(context, shown, made.codes, made.log_probs, duration_aware)

    def users(self, most: int) -> list[Context]:
        """Every user's first held-out request, by ascending user id; of more than ``most`` users, evenly spaced ones."""
        first: dict[int, Context] = {}
        for sample in self.sessions.held_out:
            first.setdefault(sample.context.user_id, sample.context)
        contexts = [first[user] for user in sorted(first)]
        chosen = np.linspace(0, len(contexts) - 1, min(most, len(contexts))).astype(np.int64)
        return [contexts[k] for k in chosen]


def _feedback(
    context: Context,
    shown: UserEvents,
    codes: Ints,
    log_probs_old: npt.NDArray[np.float32],
    duration_aware: bool,
) -> FeedbackSample:
    rl, past = RlSettings(), context.events
    buckets = [
        duration_bucket(events.duration_ms, rl.duration_base) * (1 if duration_aware else 0) for events in (shown, past)
    ]
    ranks = play_ranks(shown.play_ms, buckets[0], past.play_ms, buckets[1], rl.fewest_plays)
    return FeedbackSample(context, codes, log_probs_old, ranks, (shown.labels & int(Label.DISLIKE)) > 0)


def _in_half(half: int, user_id: int) -> bool:
    return user_id % 2 == half


def rewards_of(source: RewardSource, context: Context, item_ids: Ints) -> list[float | None]:
    """One reward per candidate, None where it is no item."""
    legal = item_ids != NO_ITEM
    found = iter(source(context, item_ids[legal]).tolist() if legal.any() else ())
    return [next(found) if is_legal else None for is_legal in legal.tolist()]
