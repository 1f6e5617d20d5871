"""One optimizer step on a batch of fine-tuning samples and up to a few rollout groups.

Imports torch and the policy only: it runs alone on any machine.
Shape legend: R contexts, T targets per context (padded), G candidates per group, K levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.context import Context
from common.features import Featurizer, PolicyInputs
from common.policy import Policy
from common.policy.flops import TRAINING
from common.policy.flops_formula import flops_formula
from common.policy.moe import Routing, balance, mixtures_of
from common.settings import Settings
from trainer.duration_reward import shaped_advantages
from trainer.gradients import gradient_norm
from trainer.objectives import (
    dpo_loss,
    format_draw,
    format_loss,
    gradient_bounded_ratio,
    next_token_loss,
    plain_ratio,
    preference_loss,
    preference_ratio,
)
from trainer.optimizer import apply_gradients, build_optimizer
from trainer.parallel import Ranks


@dataclass(frozen=True, slots=True)
class SftSample:
    """One kept session: its context as-of the session and its target items' semantic IDs (T, K), as they were shown."""

    context: Context
    codes: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RlSample:
    """One rollout group, scored: ``advantages`` are 0 where a candidate is masked. For DPO they are +1 for the winner, -1
    for the loser and 0 elsewhere.

    ``featurizer`` is that of the item index with which the group was made, so that the ratio compares like with like.
    """

    context: Context
    featurizer: Featurizer
    codes: npt.NDArray[np.int64]  # (G, K)
    log_probs_old: npt.NDArray[np.float32]  # (G, K), of the behaviour policy
    advantages: npt.NDArray[np.float32]  # (G,)
    legal: npt.NDArray[np.bool_]  # (G,)


@dataclass(frozen=True, slots=True)
class FeedbackSample:
    """What a user did with the T items of one request that were shown."""

    context: Context
    codes: npt.NDArray[np.int64]  # (T, K)
    log_probs_old: npt.NDArray[np.float32]  # (T, K) when the policy generated them; nan where another source did
    ranks: npt.NDArray[np.float64]  # (T,) of the plays, see `trainer.duration_reward`; nan where there is none
    negative: npt.NDArray[np.bool_]  # (T,) disliked


@dataclass(slots=True)
class StepMetrics:
    """What one step measured; losses are means over their samples, norms are taken before clipping."""

    targets: int = 0
    loss_per_level: list[float] = field(default_factory=list)
    preference_loss: float = 0.0
    format_loss: float = 0.0
    sft_grad_norm: float = 0.0
    rl_grad_norm: float = 0.0
    clipped_share: float = 0.0
    mean_ratio: float = 0.0
    feedback_loss: float = 0.0
    feedback_positive: int = 0
    feedback_negative: int = 0
    max_violation: float | None = None
    """Largest expert load over the mean, minus 1, in the worst mixture; None where none was trained on targets."""
    flops: int = 0
    """Floating-point operations of this rank's samples, as `common.policy.flops` counts them: matrix products of active
    parameters and of attention, forward and twice that backward, without padding."""


class TrainingStep:
    """Holds policy and optimizer; `run` makes one step. ``featurizer`` is that of the item index in force and may be
    replaced between steps. All randomness is seeded by (seed, step, rank), so a step is a pure
    function of weights, optimizer state, samples and step number. With several ranks each brings its own samples, and all
    of them call `run`, the one with none too."""

    def __init__(self, policy: Policy, featurizer: Featurizer, settings: Settings, ranks: Ranks | None = None) -> None:
        trainer = settings.trainer
        self.policy, self.featurizer, self.settings, self.ranks = policy, featurizer, settings, ranks or Ranks()
        self.parameters, self.mixtures = list(policy.parameters()), mixtures_of(policy)
        self.formula = flops_formula(policy.settings)
        self.optimizer = build_optimizer(
            policy, trainer.learning_rate, trainer.sparse_learning_rate, trainer.weight_decay, self.ranks
        )
        size = min(settings.rl.group_size, policy.settings.codes**policy.settings.levels)
        level = settings.rl.ratio_level
        self.by_token = level == "token" or (level == "auto" and settings.rl.objective == "gbpo")
        self.format_samples = min(size, settings.rl.format_samples or max(1, round(5 * size / 128)))

    def micro_batches(self, samples: list[SftSample]) -> list[list[SftSample]]:
        """The samples that go through the policy together, in order."""
        size = self.settings.trainer.micro_batch or max(1, len(samples))
        return [samples[start : start + size] for start in range(0, len(samples), size)]

    def run(
        self,
        samples: list[SftSample],
        groups: list[RlSample],
        step: int,
        feedback: Sequence[FeedbackSample] = (),
        inputs: list[PolicyInputs] | None = None,
    ) -> StepMetrics:
        """One optimizer step; with nothing to train on, weights and optimizer stay as they are. Metrics are this rank's.

        ``inputs`` are the features of the samples' `micro_batches`, made now where none are given.
        """
        metrics = StepMetrics()
        certain = self.ranks.total(len(samples) + len(groups))  # feedback may turn out to say nothing
        if not certain and not self.ranks.total(len(feedback)):
            return metrics
        torch.manual_seed(self._seed(step))  # dropout, if any
        self.optimizer.zero_grad()
        targets = self.ranks.total(sum(len(sample.codes) for sample in samples))
        routings: list[Routing] = []
        if samples:
            self._next_token(samples, inputs, targets, routings, metrics)
        if groups:
            self._reinforce(groups, step, metrics)
        if self.settings.rl.lambda_feedback:
            self._heed(feedback, step, metrics)
        if not certain and not self.ranks.total(any(parameter.grad is not None for parameter in self.parameters)):
            return metrics
        apply_gradients(self.optimizer, self.ranks, self.settings.trainer.clip_norm)
        metrics.max_violation = balance(self.mixtures, routings, self.ranks.sum)
        return metrics

    def _next_token(
        self,
        samples: list[SftSample],
        inputs: list[PolicyInputs] | None,
        all_targets: int,
        routings: list[Routing],
        metrics: StepMetrics,
    ) -> None:
        """Accumulate the gradient of the mean loss over the targets of all ranks, a micro-batch of contexts at a time."""
        self.policy.train()
        pieces = self.micro_batches(samples)
        routings += [Routing() for _ in pieces]
        inputs = inputs or [self.featurizer([sample.context for sample in piece]) for piece in pieces]
        losses = [self._micro_batch(*one, all_targets, metrics) for one in zip(pieces, inputs, routings, strict=True)]
        metrics.targets = sum(len(sample.codes) for sample in samples)
        metrics.loss_per_level = (torch.stack(losses).sum(0) / metrics.targets).tolist()
        metrics.sft_grad_norm = float(gradient_norm(p.grad for p in self.parameters))

    def _micro_batch(
        self, samples: list[SftSample], inputs: PolicyInputs, routing: Routing, all_targets: int, metrics: StepMetrics
    ) -> Tensor:
        """Add one micro-batch's gradient; its losses by level, summed over its targets."""
        codes, mask = pad_targets([s.codes for s in samples])
        device = self.parameters[0].device
        metrics.flops += TRAINING * self.formula.forward(inputs, [len(s.codes) for s in samples])
        inputs, codes, mask = inputs.to(device), codes.to(device), mask.to(device)
        with routing, autocast(device, self.settings.trainer.precision):
            log_probs = self.policy.session_log_probs(self.policy.encode(inputs), codes, mask)
        share = int(mask.sum()) / all_targets
        ((next_token_loss(log_probs, mask) + routing.auxiliary_loss) * share).backward()
        return -log_probs.detach()[mask].sum(0)

    def _reinforce(self, groups: list[RlSample], step: int, metrics: StepMetrics) -> None:
        rl = self.settings.rl
        self.policy.eval()  # dropout off: the ratio must compare like with like
        log_probs = self._log_probs(groups, metrics)
        log_probs_old = torch.from_numpy(np.stack([g.log_probs_old for g in groups]))
        advantages = torch.from_numpy(np.stack([g.advantages for g in groups]))
        generator = torch.Generator().manual_seed(self._seed(step))
        preference, form = log_probs.new_zeros(()), log_probs.new_zeros(())
        ratios: list[Tensor] = []
        for group, now, old, advantage in zip(groups, log_probs, log_probs_old, advantages, strict=True):
            preference = preference + self._preference(now, old, advantage, ratios)
            now, old, legal = now.sum(-1), old.sum(-1), torch.from_numpy(group.legal)
            drawn = format_draw(old, self.format_samples, rl.format_select, generator)
            form = form + format_loss(now, old, legal, drawn, rl.eps, rl.delta)
        # Divided by the constant, not by the groups at hand: arrival timing must not change a group's weight.
        loss = (rl.lambda_preference * preference + rl.lambda_format * form) / rl.groups_per_step
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        self._add(gradients)
        ratio = torch.stack(ratios)
        metrics.rl_grad_norm = float(gradient_norm(gradients))
        metrics.preference_loss = float(preference.detach()) / len(groups)
        metrics.format_loss = float(form.detach()) / len(groups)
        metrics.clipped_share = float(((ratio - 1).abs() > rl.eps).float().mean())
        metrics.mean_ratio = float(ratio.mean())

    def _preference(self, now: Tensor, old: Tensor, advantage: Tensor, ratios: list[Tensor]) -> Tensor:
        """One group's loss from its log-probabilities by level (G, K); its ratios go to ``ratios``."""
        rl = self.settings.rl
        if rl.objective == "dpo":
            return self._pair(now.sum(-1), old.sum(-1), advantage, ratios)
        if self.by_token:
            advantage = advantage.unsqueeze(-1)
        else:
            now, old = now.sum(-1), old.sum(-1)
        ratio = preference_ratio(rl.objective, now, old, advantage, rl.eps, rl.delta)
        ratios.append(ratio.detach())
        return preference_loss(rl.objective, ratio, advantage, rl.eps)

    def _pair(self, now: Tensor, old: Tensor, advantage: Tensor, ratios: list[Tensor]) -> Tensor:
        """DPO's loss of a group's winner and loser, 0 if it has none; the reference is the policy that generated the group,
        so that it moves on with every parameter push (OneRec first version, iterative preference alignment)."""
        ratios.append(plain_ratio(now.detach(), old))
        if not advantage.any():
            return now.new_zeros(())
        winner, loser = advantage > 0, advantage < 0
        return dpo_loss(now[winner], now[loser], old[winner], old[loser], self.settings.rl.beta)

    def _heed(self, feedback: Sequence[FeedbackSample], step: int, metrics: StepMetrics) -> None:
        """Add the gradient of what users did with the items they were shown; a collective of all ranks.

        By GBPO and by token, whatever the objective of rollouts is: the mean over all shown items, of all ranks. Those with
        advantage 0, which are most, cost nothing.
        """
        shown, advantages = self._feedback_advantages(feedback, step)
        chosen = [(sample, a) for sample, a in zip(feedback, advantages, strict=True) if a.any()]
        if not chosen:
            return
        self.policy.eval()  # dropout off, as in `_reinforce`
        codes, mask = pad_targets([sample.codes for sample, _ in chosen])
        inputs = self.featurizer([sample.context for sample, _ in chosen])
        metrics.flops += TRAINING * self.formula.forward(inputs, [len(a) for _, a in chosen], together=False)
        now = self.policy.log_probs(self.policy.encode(inputs), codes)[mask]
        old = torch.from_numpy(np.concatenate([sample.log_probs_old for sample, _ in chosen]))
        old = torch.where(old.isnan(), now.detach(), old)
        advantage = torch.from_numpy(np.concatenate([a for _, a in chosen])).unsqueeze(-1)
        loss = -(gradient_bounded_ratio(now, old, advantage) * advantage).mean(-1).sum() / shown
        self._add(torch.autograd.grad(self.settings.rl.lambda_feedback * loss, self.parameters, allow_unused=True))
        metrics.feedback_loss = float(loss.detach())
        metrics.feedback_positive = int((advantage > 0).sum())
        metrics.feedback_negative = int((advantage < 0).sum())

    def _feedback_advantages(
        self, feedback: Sequence[FeedbackSample], step: int
    ) -> tuple[int, list[npt.NDArray[np.float32]]]:
        """How many items were shown to the users of all ranks, and the advantages of this rank's: a quartile is of all."""
        own = np.concatenate([np.empty((2, 0)), *(np.stack([s.ranks, s.negative]) for s in feedback)], 1)
        parts = [np.frombuffer(data).reshape(2, -1) for data in self.ranks.collect(own.tobytes())]
        ranks, negative = np.concatenate(parts, 1)
        rng = np.random.default_rng((self.settings.seed, step))
        every = shaped_advantages(ranks, negative.astype(bool), rng)
        mine = np.split(every, np.cumsum([part.shape[1] for part in parts[:-1]]))[self.ranks.rank]
        return len(every), np.split(mine, np.cumsum([len(sample.ranks) for sample in feedback[:-1]])) if feedback else []

    def _add(self, gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def _log_probs(self, groups: list[RlSample], metrics: StepMetrics) -> Tensor:
        """Log-probabilities (groups, G, K) by the present policy; one pass for the groups of each item index."""
        rows: list[Tensor] = [torch.empty(0)] * len(groups)
        for featurizer in dict.fromkeys(group.featurizer for group in groups):
            where = [k for k, group in enumerate(groups) if group.featurizer is featurizer]
            inputs = featurizer([groups[k].context for k in where])
            metrics.flops += TRAINING * self.formula.forward(inputs, [len(groups[k].codes) for k in where], together=False)
            memory = self.policy.encode(inputs)
            codes = torch.from_numpy(np.stack([groups[k].codes for k in where]))
            for k, row in zip(where, self.policy.log_probs(memory, codes), strict=True):
                rows[k] = row
        return torch.stack(rows)

    def _seed(self, step: int) -> int:
        """Of a step's random draws, others on each rank."""
        return (self.settings.seed * 1_000_003 + step) * self.ranks.world + self.ranks.rank

    def state_dict(self) -> dict[str, Tensor]:
        """The optimizer's state as flat named tensors; every rank must call it, and gets all of it."""
        return self.optimizer.tensors()

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.optimizer.load_tensors(tensors)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 matrix products where ``precision`` is ``bf16``. Weights, router, norms, softmax and loss stay in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def pad_targets(targets: list[npt.NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
    """Lists of (T_r, K) -> codes (R, T, K) and mask (R, T)."""
    longest = max(len(t) for t in targets)
    codes = np.zeros((len(targets), longest, targets[0].shape[1]), np.int64)
    mask = np.zeros((len(targets), longest), np.bool_)
    for row, target in enumerate(targets):
        codes[row, : len(target)] = target
        mask[row, : len(target)] = True
    return torch.from_numpy(codes), torch.from_numpy(mask)
