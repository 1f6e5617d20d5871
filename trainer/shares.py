"""What each rank tells of a finished step, and what all of them did together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from trainer.groups import Judgement, group_line
from trainer.resume import Run
from trainer.step import StepMetrics

Line = dict[str, object]


@dataclass(frozen=True, slots=True)
class Share:
    """One rank's part of a step: what it measured, the totals of its counters, the lines of its groups."""

    metrics: StepMetrics
    counters: dict[str, int]
    outstanding: int
    trained: int
    groups: list[Line]

    @staticmethod
    def of(run: Run, metrics: StepMetrics, judgements: list[Judgement], now_ms: int) -> Share:
        """This rank's share of the step that ``run`` has just finished."""
        lines = []
        for judgement in judgements:
            version = judgement.group.parameter_version if judgement.group else -1
            lines.append(group_line(judgement, run.step, run.staleness.lag(version), now_ms))
        trained = sum(judgement.sample is not None for judgement in judgements)
        return Share(metrics, dict(run.counters), len(run.frontier.outstanding), trained, lines)

    def to_bytes(self) -> bytes:
        """For the other ranks."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def read(data: bytes) -> Share:
        """Inverse of `to_bytes`."""
        told = json.loads(data)
        return Share(**told | {"metrics": StepMetrics(**told["metrics"])})


def merged(shares: list[Share]) -> Share:
    """All ranks' shares as one: sums; losses as means over targets or groups; of norms and violations the largest."""
    if len(shares) == 1:
        return shares[0]
    every = [share.metrics for share in shares]
    taught = [metrics for metrics in every if metrics.targets]
    targets, groups = [metrics.targets for metrics in taught], [share.trained for share in shares]
    counters: Counter[str] = Counter()
    for share in shares:
        counters.update(share.counters)
    metrics = StepMetrics(
        targets=sum(targets),
        loss_per_level=[_mean(level, targets) for level in zip(*(m.loss_per_level for m in taught), strict=True)],
        preference_loss=_mean([m.preference_loss for m in every], groups),
        format_loss=_mean([m.format_loss for m in every], groups),
        sft_grad_norm=max(m.sft_grad_norm for m in every),
        rl_grad_norm=max(m.rl_grad_norm for m in every),
        clipped_share=_mean([m.clipped_share for m in every], groups),
        mean_ratio=_mean([m.mean_ratio for m in every], groups),
        feedback_loss=sum(m.feedback_loss for m in every),
        feedback_positive=sum(m.feedback_positive for m in every),
        feedback_negative=sum(m.feedback_negative for m in every),
        max_violation=max((m.max_violation for m in every if m.max_violation is not None), default=None),
        flops=sum(m.flops for m in every),
    )
    outstanding = sum(share.outstanding for share in shares)
    return Share(metrics, dict(counters), outstanding, sum(groups), [line for share in shares for line in share.groups])


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    whole = sum(weights)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / whole if whole else 0.0
