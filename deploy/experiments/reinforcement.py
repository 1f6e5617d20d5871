"""The training loop without its processes: fine-tuning and reinforcement on the same sessions, rollouts in between.

One step takes ``batch`` sessions for the next-token loss and ``groups`` of their contexts for rollouts, as the streaming
trainer does; parameters reach the generator every ``publish_every`` steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from benchmarks.simulated_sessions import SPARSE_LEARNING_RATE, Say, compact
from common.features import Featurizer
from common.messages import NO_ITEM
from common.policy import Policy, build_policy, load_weights, to_blob
from common.settings import (
    IndustrialSettings,
    PolicySettings,
    Positive,
    Rate,
    RlSettings,
    Section,
    Settings,
    Share,
    TrainerSettings,
)
from deploy.data.simulator_cascade import PLACES
from deploy.experiments.judgement import LIST_WIDTH
from deploy.experiments.laboratory import DampenedReward, Laboratory, RewardSource, rewards_of
from reward_service.rewards import IndustrialReward
from rollout.engine import GenerationEngine
from rollout.sampling import Truncation
from trainer.advantages import advantages_for
from trainer.pretraining import schedule
from trainer.step import FeedbackSample, RlSample, SftSample, TrainingStep

PROGRESS_LINES = 6
WARMUP_SHARE = 0.02


REINFORCEMENT = RlSettings(group_size=64, lambda_preference=0.3, lambda_format=0.0)
"""What arms change."""


class Start(Section):
    """The fine-tuned policy with which all arms of one seed begin."""

    policy: PolicySettings = compact(128, feature_width=16)
    steps: Positive = 12_500
    batch: Positive = 16
    learning_rate: Rate = 1e-3


class Schedule(Section):
    """What all arms of an experiment have in common after the start."""

    steps: Positive = 3_000
    batch: Positive = 16
    groups: Positive = 4
    """Rollout groups of a step."""
    publish_every: Positive = 200
    learning_rate: Rate = 8e-5
    sparse_learning_rate: Rate = 1e-4


class Arm(Section):
    """One way to reinforce."""

    name: str
    reinforced: bool = True
    """By rollouts; False and without feedback: the same steps of fine-tuning alone."""
    feedback: Literal["", "duration-aware", "raw play time"] = ""
    """How plays of the sessions at hand are ranked for reinforcement by feedback (``rl.lambda_feedback``)."""
    own_traffic: Share = 0.0
    """Share of a step's sessions whose feedback is on what the generator shows their users, not on what the log did."""
    rl: RlSettings = REINFORCEMENT
    groups: Positive | None = None
    """Rollout groups of a step where they are not the schedule's; one group weighs the same with any number."""
    on_policy: bool = True
    """Whether the generator follows the trained policy, or stays what all arms begin with."""
    learning_rate_factor: Annotated[float, Field(gt=0)] = 1.0
    industrial: IndustrialSettings | None = None
    """The rule that dampens the rewards of viral items; its tags are not read, the world knows them."""


@dataclass
class Course:
    """What every step measured; empty lists where nothing was reinforced."""

    loss: list[float] = field(default_factory=list)
    legality: list[float] = field(default_factory=list)
    """Share of the candidates that are items."""
    top_legality: list[float] = field(default_factory=list)
    """The same of the most probable ones, as many as the format term looks at."""
    reward: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    viral: list[float] = field(default_factory=list)
    """Share of the legal candidates that are viral."""
    distinct: list[float] = field(default_factory=list)
    """Share of a group's candidates that differ from each other."""


def fine_tune(start: Start, laboratory: Laboratory, seed: int, on_progress: Say) -> Policy:
    """The seed's start: linear warm-up, then cosine to a tenth."""
    policy = build_policy(start.policy, seed)
    rates = TrainerSettings(learning_rate=start.learning_rate, sparse_learning_rate=SPARSE_LEARNING_RATE)
    step = TrainingStep(policy, Featurizer(start.policy, laboratory.index), Settings(seed=seed, trainer=rates))
    losses = []
    for k, samples in enumerate(batches(laboratory.sessions.training, start.batch, start.steps, seed), 1):
        step.optimizer.scale_learning_rate(schedule(k, start.steps, WARMUP_SHARE))
        losses.append(sum(step.run(samples, [], k).loss_per_level))
        if k % -(-start.steps // PROGRESS_LINES) == 0:
            on_progress(f"start, seed {seed}: step {k:,} of {start.steps:,}, loss {np.mean(losses[-100:]):.3f}")
    return policy


def reinforce(
    arm: Arm, plan: Schedule, laboratory: Laboratory, start: Policy, seed: int, on_progress: Say
) -> tuple[Policy, Course]:
    """Train on from ``start``, which stays as it is; sessions and contexts are the same for all arms of a seed."""
    policy = _copy(start)
    factor = arm.learning_rate_factor
    rates = TrainerSettings(
        learning_rate=factor * plan.learning_rate, sparse_learning_rate=factor * plan.sparse_learning_rate
    )
    settings = Settings(seed=seed, trainer=rates, rl=arm.rl.model_copy(update={"groups_per_step": plan.groups}))
    step = TrainingStep(policy, Featurizer(policy.settings, laboratory.index), settings)
    generator = Generator(arm, laboratory, start, seed)
    course = Course()
    for k, samples in enumerate(batches(laboratory.sessions.training, plan.batch, plan.steps, seed + 1000), 1):
        groups = generator.groups(samples[: arm.groups or plan.groups], k, course) if arm.reinforced else []
        feedback = generator.feedback(samples, k) if arm.feedback else []
        metrics = step.run(samples, groups, k, feedback)
        course.loss.append(sum(metrics.loss_per_level))
        if groups:
            course.gradient_norm.append(metrics.rl_grad_norm)
        if arm.on_policy and k % plan.publish_every == 0:
            generator.take(policy)
        if k % -(-plan.steps // PROGRESS_LINES) == 0:
            on_progress(f"{arm.name}, seed {seed}: step {k:,} of {plan.steps:,}{_recent(course)}")
    return policy, course


def batches(samples: list[SftSample], size: int, steps: int, seed: int) -> Iterator[list[SftSample]]:
    """``steps`` batches, pass after pass, each in an order of its own."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    for _ in range(steps):
        if len(order) < size:
            order += rng.permutation(len(samples)).tolist()
        taken, order = order[:size], order[size:]
        yield [samples[k] for k in taken]


class Generator:
    """What the rollout actors, the reward service and the users do."""

    def __init__(self, arm: Arm, laboratory: Laboratory, start: Policy, seed: int) -> None:
        self.arm, self.laboratory = arm, laboratory
        self.policy, self.seed = _copy(start), seed
        self.format_samples = arm.rl.format_samples or 1
        self.source: RewardSource = laboratory.learned
        self.viral = laboratory.truth.world.viral
        if arm.industrial:
            self.source = DampenedReward(self.source, IndustrialReward(arm.industrial), self.viral)
        truncation = Truncation(arm.rl.top_k, arm.rl.top_p) if arm.rl.candidates == "sample" else None
        self.engine = GenerationEngine(self.policy, laboratory.index, arm.rl.group_size, truncation=truncation)
        self.lists = GenerationEngine(self.policy, laboratory.index, LIST_WIDTH, constrained=True)

    def take(self, policy: Policy) -> None:
        """Follow the trained policy."""
        load_weights(self.policy, to_blob(policy))

    def groups(self, samples: list[SftSample], step: int, course: Course) -> list[RlSample]:
        """A scored group for every session; what it looks like goes to the course."""
        contexts = [sample.context for sample in samples]
        seeds = [(self.seed * 1_000_003 + step) * 1009 + k for k in range(len(contexts))]
        groups, rewarded, shown = [], [], list[npt.NDArray[np.int64]]()
        for context, made in zip(contexts, self.engine.generate(contexts, seeds), strict=True):
            legal = made.item_ids != NO_ITEM
            rewards = rewards_of(self.source, context, made.item_ids)
            advantages = advantages_for(self.arm.rl.objective, rewards)
            groups.append(RlSample(context, self.engine.featurizer, made.codes, made.log_probs, advantages, legal))
            shown.append(made.item_ids[legal])
            rewarded += [reward for reward in rewards if reward is not None]
        course.legality.append(float(np.mean([group.legal.mean() for group in groups])))
        course.top_legality.append(float(np.mean([_most_probable(g, self.format_samples).mean() for g in groups])))
        course.viral.append(float(self.viral[np.concatenate(shown)].mean()) if any(map(len, shown)) else float("nan"))
        course.reward.append(float(np.mean(rewarded)) if rewarded else float("nan"))
        course.distinct.append(float(np.mean([len(np.unique(g.codes, axis=0)) / len(g.codes) for g in groups])))
        return groups

    def feedback(self, samples: list[SftSample], step: int) -> list[FeedbackSample]:
        """Of the arm's share of the sessions on a list of this generator's, of the others on what the log showed."""
        aware, own = self.arm.feedback == "duration-aware", round(self.arm.own_traffic * len(samples))
        logged = [self.laboratory.feedback(sample.context, aware) for sample in samples[own:]]
        contexts = [sample.context for sample in samples[:own]]
        rng = np.random.default_rng((self.seed, step, 1))
        shown = [made.first(PLACES) for made in self.lists.generate(contexts)] if contexts else []
        answers = (self.laboratory.own_feedback(*one, aware, rng) for one in zip(contexts, shown, strict=True))
        return [*answers, *logged]


def _copy(policy: Policy) -> Policy:
    other = build_policy(policy.settings)
    load_weights(other, to_blob(policy))
    return other


def _most_probable(group: RlSample, count: int) -> np.ndarray:
    """Which of the most probable candidates are items."""
    return group.legal[np.argsort(-group.log_probs_old.sum(-1), kind="stable")[:count]]


def _recent(course: Course) -> str:
    told = f", loss {np.mean(course.loss[-100:]):.3f}"
    if course.legality:
        told += f", legal {np.mean(course.legality[-100:]):.2f}, reward {np.nanmean(course.reward[-100:]):.3f}"
    return told
