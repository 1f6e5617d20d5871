"""Next-token pre-training: on the initial histories as ordered sequences, then on the warm window's sessions.

Imports torch and the policy only. A history is cut into blocks of consecutive events; the events before a block are the
context that its targets share, so position k never sees position k or later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.context import Context, UserEvents
from common.features import Featurizer, PolicyInputs
from common.history import context_events
from common.item_index import ItemIndex
from common.messages import POSITIVE
from common.policy import Policy, gather_codes
from common.policy.moe import Routing, balance, mixtures_of
from common.settings import Settings
from common.user_log import UserLog
from trainer.item_teacher import ItemTeacher
from trainer.objectives import next_token_loss
from trainer.optimizer import PolicyOptimizer, apply_gradients, build_optimizer
from trainer.parallel import Ranks
from trainer.prefetch import ahead
from trainer.step import SftSample, pad_targets

IntArray = npt.NDArray[np.int64]
Progress = Callable[[str, int, int, float], None]
"""Called with (phase, batches done, batches in all, recent loss)."""


def target_codes(events: UserEvents, index: ItemIndex, which: str, limit: int | None = None) -> IntArray:
    """Semantic IDs (T, K) of the events that are next-token targets: known items, all or only positive events."""
    rows = index.rows(events.item_id)
    wanted = rows >= 0
    if which == "positive":
        wanted &= (events.labels & int(POSITIVE)) > 0
    chosen = rows[wanted][-limit:] if limit else rows[wanted]
    return index.sids[chosen].astype(np.int64)


def history_samples(users: list[UserLog], index: ItemIndex, settings: Settings, rng: np.random.Generator) -> list[SftSample]:
    """Blocks of `targets_per_context` history events, cut at a random phase per user, each with what came before it."""
    size, limit = settings.pretrain.targets_per_context, context_events(settings.policy)
    samples = []
    for user in users:
        history = user.events.take(slice(0, user.initial))
        first_cut = int(rng.integers(1, size + 1))
        for start in [0, *range(first_cut, len(history), size)]:
            stop = first_cut if start == 0 else start + size
            block = history.take(slice(start, stop))
            codes = target_codes(block, index, settings.trainer.targets)
            if len(codes):
                time_ms = int(block.time_ms[0])
                context = Context(user.user_id, time_ms, 0, user.profile, history.take(slice(0, start)).last(limit))
                samples.append(SftSample(context, codes))
    return samples


def session_samples(users: list[UserLog], index: ItemIndex, settings: Settings) -> list[SftSample]:
    """The warm window's sessions in time order: context = the events before the session, as many as in the stream."""
    limit = context_events(settings.policy)
    timed: list[tuple[int, SftSample]] = []
    for user in users:
        for first, last, tab in user.sessions:
            block = user.events.take(slice(first, last))
            codes = target_codes(block, index, settings.trainer.targets, settings.trainer.max_targets)
            if len(codes):
                time_ms = int(block.time_ms[0])
                context = Context(user.user_id, time_ms, tab, user.profile, user.events.take(slice(0, first)).last(limit))
                timed.append((time_ms, SftSample(context, codes)))
    timed.sort(key=lambda pair: pair[0])
    return [sample for _, sample in timed]


def pretrain(
    policy: Policy,
    users: list[UserLog],
    index: ItemIndex,
    settings: Settings,
    progress: Progress,
    ranks: Ranks | None = None,
) -> dict[str, list[float]]:
    """Train in place; one schedule (warm-up, then cosine to a tenth) over both phases. Returns the loss curve by phase.

    Several ranks are given the same users, and share every batch out among themselves.
    """
    phases = settings.pretrain
    rng = np.random.default_rng(settings.seed)
    plan: list[tuple[str, list[SftSample]]] = []
    for _ in range(phases.history_epochs):
        samples = history_samples(users, index, settings, rng)
        shuffled = [samples[i] for i in rng.permutation(len(samples))]
        plan.append(("histories", by_length(shuffled, phases.batch_contexts, rng)))
    warm = by_length(session_samples(users, index, settings), phases.batch_contexts, rng)
    plan += [("warm window", warm)] * phases.warm_epochs
    batch = phases.batch_contexts
    total = sum(-(-len(samples) // batch) for _, samples in plan)
    optimizer = build_optimizer(policy, phases.learning_rate, phases.sparse_learning_rate, phases.weight_decay, ranks)
    policy.train()
    world, rank = (ranks.world, ranks.rank) if ranks else (1, 0)
    torch.manual_seed(settings.seed * world + rank)  # dropout, if any
    curves: dict[str, list[float]] = {}
    with closing(Fitter(policy, optimizer, Featurizer(policy.settings, index), settings, ranks)) as fitter:
        for done, ((phase, _), shares) in enumerate(ahead(_batches(plan, batch), lambda one: fitter.shares(one[1])), 1):
            optimizer.scale_learning_rate(schedule(done, total, phases.warmup_share))
            curves.setdefault(phase, []).append(fitter.fit(shares))
            progress(phase, done, total, float(np.mean(curves[phase][-50:])))
    return curves


def by_length(samples: list[SftSample], batch: int, rng: np.random.Generator) -> list[SftSample]:
    """Group contexts of similar length into batches, within stretches of 32 batches, so that little padding is computed.

    The order of the batches inside a stretch is random; the order of the stretches is kept.
    """
    out: list[SftSample] = []
    for start in range(0, len(samples), 32 * batch):
        stretch = sorted(samples[start : start + 32 * batch], key=lambda sample: len(sample.context.events))
        batches = [stretch[i : i + batch] for i in range(0, len(stretch), batch)]
        for i in rng.permutation(len(batches)):
            out += batches[i]
    return out


def schedule(step: int, total: int, warmup_share: float) -> float:
    """Learning-rate factor: linear warm-up over the given share, then cosine from 1 to 0.1."""
    warmup = max(1.0, warmup_share * total)
    if step < warmup:
        return step / warmup
    return 0.55 + 0.45 * float(np.cos(np.pi * (step - warmup) / max(1.0, total - warmup)))


def _batches(plan: list[tuple[str, list[SftSample]]], size: int) -> Iterator[tuple[str, list[SftSample]]]:
    for phase, samples in plan:
        for start in range(0, len(samples), size):
            yield phase, samples[start : start + size]


@dataclass(frozen=True, slots=True)
class Share:
    """A worker's part of a batch, on the policy's device: T targets, padded, of R contexts."""

    inputs: PolicyInputs
    codes: Tensor  # (R, T, K)
    mask: Tensor  # (R, T)
    weight: float
    """Its share of all ranks' targets."""


class Fitter:
    """Fits batches with worker threads: each takes every n-th sample, and the gradients are summed in a fixed order.

    With several ranks, each has worker threads for every n-th sample of the batch, which all ranks are given.

    Small tensors gain little from threads inside an operation, and much from threads that each do whole operations.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: PolicyOptimizer,
        featurizer: Featurizer,
        settings: Settings,
        ranks: Ranks | None = None,
    ) -> None:
        self.policy, self.optimizer, self.featurizer, self.ranks = policy, optimizer, featurizer, ranks or Ranks()
        self.parameters, self.mixtures = list(policy.parameters()), mixtures_of(policy)
        self.clip = settings.trainer.clip_norm
        share = settings.pretrain.item_distillation
        self.teacher = ItemTeacher(policy, featurizer.index, share) if share else None
        # Dropout draws from one generator: several threads would draw in an order that no seed fixes.
        self.workers = 1 if policy.settings.dropout else settings.pretrain.workers
        self.pool = ThreadPoolExecutor(self.workers)

    def shares(self, samples: list[SftSample]) -> list[Share]:
        """What this rank's workers fit of a batch that all ranks are given. A pure function: it may be made ahead."""
        targets = sum(len(sample.codes) for sample in samples)
        own = samples[self.ranks.rank :: self.ranks.world]
        parts = [part for worker in range(self.workers) if (part := own[worker :: self.workers])]
        return [self._share(part, targets) for part in parts]

    def fit(self, shares: list[Share]) -> float:
        """One optimizer step on a batch; the loss per target."""
        results = list(self.pool.map(self._gradients, shares))
        for parameter, *parts in zip(self.parameters, *(gradients for _, gradients, _ in results), strict=True):
            present = [part for part in parts if part is not None]
            parameter.grad = reduce(torch.add, present) if present else None
        apply_gradients(self.optimizer, self.ranks, self.clip)
        balance(self.mixtures, [routing for _, _, routing in results], self.ranks.sum)
        return float(self.ranks.sum(torch.tensor(sum(loss for loss, _, _ in results), dtype=torch.float64)))

    def _share(self, samples: list[SftSample], targets: int) -> Share:
        device = self.parameters[0].device
        codes, mask = pad_targets([sample.codes for sample in samples])
        inputs = self.featurizer([sample.context for sample in samples]).to(device)
        return Share(inputs, codes.to(device), mask.to(device), int(mask.sum()) / targets)

    def _gradients(self, share: Share) -> tuple[float, tuple[Tensor | None, ...], Routing]:
        codes, mask = share.codes, share.mask
        with Routing() as routing:
            memory = self.policy.encode(share.inputs)
            logits = self.policy.session_logits(memory, codes, mask)
        loss = next_token_loss(gather_codes(logits, codes), mask) * share.weight
        learned = loss if self.teacher is None else self.teacher.loss(memory, logits, codes, mask) * share.weight
        gradients = torch.autograd.grad(learned + routing.auxiliary_loss * share.weight, self.parameters, allow_unused=True)
        return loss.item(), gradients, routing

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown()
