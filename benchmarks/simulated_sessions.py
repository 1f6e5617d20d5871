"""Simulated sessions on which policies are compared: made once, split by time, trained on in one pass in their order.

The world, its tokenizer, the batches and the schedule are the same for every policy of a comparison; only a policy's
initial weights depend on its seed. The last day of the log is held out: tokenizer and training see nothing of it, but a
held-out session's context holds all that came before it, that day's events too. Shape legend: U users, K levels.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from common.context import DAY_MS
from common.features import Featurizer
from common.item_index import ItemIndex, snapshot_path
from common.item_index.snapshot import FORMAT
from common.policy import Policy, build_policy
from common.policy.moe import Routing, max_violation
from common.session_log import SessionLog
from common.settings import PolicySettings, Positive, Rate, Section, Settings, SimulatorSettings, TrainerSettings
from common.user_log import load_user_logs
from deploy.data.simulator import STATIC_FIELDS, simulate
from tokenizer_job.job import FIRST_VERSION, build_index
from trainer.pretraining import schedule, session_samples
from trainer.step import SftSample, TrainingStep, pad_targets

Say = Callable[[str], None]
Floats = npt.NDArray[np.float64]
WORLD_SEED = 0
WARMUP_SHARE = 0.02
SPARSE_LEARNING_RATE = 3e-2
EVALUATION_BATCH = 64
PROGRESS_LINES = 10
S1 = SimulatorSettings(items=10_000, users=4_000, requests_per_user=36)
"""100,000 sessions before the held-out day."""


class Plan(Section):
    """What all policies of a comparison are trained and judged on."""

    simulator: SimulatorSettings = S1
    codes: Positive = 128
    """Of each of the three levels."""
    targets: Positive = 6
    """Of a session: its last impressions. Sessions have five to ten."""
    past: int = 0
    """Sessions with fewer events before them are left out."""
    steps: Positive
    batch: Positive = 16
    """Sessions of a step; the newest ``steps * batch`` before the held-out day are trained on."""
    held_out: Positive = 10_000
    """Held-out sessions at most, evenly spaced in time."""


class Arm(Section):
    """One policy of a comparison."""

    name: str
    policy: PolicySettings
    learning_rate: Rate
    """Of the dense weights; that of the id tables is `SPARSE_LEARNING_RATE` for all."""


@dataclass(frozen=True, eq=False)
class Sessions:
    """A plan's sessions in time order, every held-out one after every training one."""

    index: ItemIndex
    training: list[SftSample]
    held_out: list[SftSample]


@dataclass(frozen=True, eq=False)
class Course:
    """What training measured at every step: loss per target (sum of the levels, nats), worst mixture's violation."""

    loss: list[float]
    violation: list[float]
    """Empty where the policy has no mixture."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a trained policy makes of the held-out sessions, in nats."""

    loss: Floats
    """Mean over all targets, by level (K,)."""
    users: Floats
    """Mean over each user's targets of the levels' sum (U,), by ascending user id."""
    violation: float | None
    """Of the loads summed over all sessions, in the worst mixture; None without mixtures."""


def compact(width: int = 128, **changes: object) -> PolicySettings:
    """A small V1 policy: 2 + 2 layers, FFN of twice the width, context of 1 + 20 + 64 positions, no lifelong pathway."""
    sizes: dict[str, object] = {"d_model": width, "ffn": 2 * width, "encoder_layers": 2, "decoder_layers": 2}
    inputs: dict[str, object] = {"codes": 128, "static_fields": STATIC_FIELDS, "positive_length": 64, "item_buckets": 16_384}
    return PolicySettings.model_validate(sizes | inputs | changes)


def make(plan: Plan, cache: Path, on_progress: Say) -> Path:
    """The folder under ``cache`` with the plan's log and item index, made now unless it is there already."""
    settings = Settings(seed=WORLD_SEED, simulator=plan.simulator, policy=PolicySettings(codes=plan.codes))
    told = settings.model_dump_json(include={"seed": True, "simulator": True, "tokenizer": True, "policy": {"codes"}})
    folder = cache / f"sessions-{hashlib.sha256(f'{told} index {FORMAT}'.encode()).hexdigest()[:12]}"
    if not (folder / "log").exists():
        simulate(settings, folder / "log", on_progress)
    if not snapshot_path(folder / "index", FIRST_VERSION).exists():
        build_index(SessionLog.open(folder / "log"), settings, folder, _training_days(plan), on_progress)
    return folder


def read(plan: Plan, folder: Path) -> Sessions:
    """The sessions of a folder that `make` gave; items that the tokenizer did not know are no targets.

    Raises:
        ValueError: the log has fewer sessions than the plan wants before the held-out day, or none on it.
    """
    log = SessionLog.open(folder / "log")
    index = ItemIndex.load(snapshot_path(folder / "index", FIRST_VERSION))
    settings = Settings(trainer=TrainerSettings(max_targets=plan.targets))
    users = load_user_logs(log, _training_days(plan) + 1)
    samples = [s for s in session_samples(users, index, settings) if len(s.context.events) >= plan.past]
    cut_ms = log.manifest.day0_ms + _training_days(plan) * DAY_MS
    cut, wanted = bisect_left(samples, cut_ms, key=lambda sample: sample.context.time_ms), plan.steps * plan.batch
    if wanted > cut or cut == len(samples):
        raise ValueError(
            f"the plan's steps * batch must be at most {cut}, the sessions before the held-out day, got {wanted}; "
            f"and there must be sessions on that day, got {len(samples) - cut}"
        )
    later = samples[cut:]
    chosen = np.linspace(0, len(later) - 1, min(plan.held_out, len(later))).astype(np.int64)
    return Sessions(index, samples[cut - wanted : cut], [later[k] for k in chosen])


def train(arm: Arm, seed: int, plan: Plan, sessions: Sessions, on_progress: Say) -> tuple[Policy, Course]:
    """A policy with the seed's initial weights after one pass: linear warm-up, then cosine to a tenth of the arm's rate."""
    rates = TrainerSettings(learning_rate=arm.learning_rate, sparse_learning_rate=SPARSE_LEARNING_RATE)
    policy = build_policy(arm.policy, seed)
    step = TrainingStep(policy, Featurizer(arm.policy, sessions.index), Settings(seed=seed, trainer=rates))
    course = Course([], [])
    for k in range(1, plan.steps + 1):
        step.optimizer.scale_learning_rate(schedule(k, plan.steps, WARMUP_SHARE))
        metrics = step.run(sessions.training[(k - 1) * plan.batch : k * plan.batch], [], k)
        course.loss.append(sum(metrics.loss_per_level))
        if metrics.max_violation is not None:
            course.violation.append(metrics.max_violation)
        if k % -(-plan.steps // PROGRESS_LINES) == 0:
            on_progress(f"{arm.name}, seed {seed}: step {k:,} of {plan.steps:,}, loss {np.mean(course.loss[-100:]):.3f}")
    return policy, course


@torch.no_grad()
def judge(policy: Policy, sessions: Sessions) -> HeldOut:
    """Teacher-forced losses of the held-out sessions, every session's targets sharing its context."""
    policy.eval()
    featurizer = Featurizer(policy.settings, sessions.index)
    losses, users = [], []
    with Routing() as routing:
        for start in range(0, len(sessions.held_out), EVALUATION_BATCH):
            part = sessions.held_out[start : start + EVALUATION_BATCH]
            codes, mask = pad_targets([sample.codes for sample in part])
            memory = policy.encode(featurizer([sample.context for sample in part]))
            losses.append(-policy.session_log_probs(memory, codes, mask)[mask].double().numpy())
            users += [sample.context.user_id for sample in part for _ in sample.codes]
    loss = np.concatenate(losses)
    _, user = np.unique(users, return_inverse=True)
    of_user = np.bincount(user, loss.sum(1)) / np.bincount(user)
    return HeldOut(loss.mean(0), of_user, max(map(max_violation, routing.loads.values()), default=None))


def _training_days(plan: Plan) -> int:
    """Days of the log before the held-out one; the simulator turns the first quarter of its days into histories."""
    return plan.simulator.days - plan.simulator.days // 4 - 1
