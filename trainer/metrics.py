"""What a step did, on the trainer's Prometheus metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter as PrometheusCounter

from common import metrics
from common.policy.peak import Peak
from common.stream import topic_name
from trainer.groups import OUTCOMES, Judgement, legal_share, mean_reward
from trainer.resume import GROUPS, SESSIONS, Run
from trainer.step import StepMetrics

COUNTERS: dict[str, PrometheusCounter] = {
    "sessions.consumed": metrics.TRAINER_SESSIONS_CONSUMED,
    "sessions.kept": metrics.TRAINER_SESSIONS_KEPT,
    "sessions.duplicates": metrics.TRAINER_SESSIONS_DUPLICATE,
    "targets": metrics.TRAINER_SAMPLES_TRAINED,
    "impressions.unknown": metrics.TRAINER_UNKNOWN_ITEMS,
    "requests.sent": metrics.TRAINER_REQUESTS_SENT,
    "requests.skipped": metrics.TRAINER_REQUESTS_SKIPPED,
}


class TrainerMetrics:
    """Shows a run's counters and its last step. Counters show what this process saw happen, as Prometheus expects."""

    def __init__(self, peak: Peak) -> None:
        self._shown: Counter[str] = Counter()
        metrics.TRAINER_PEAK_FLOPS.labels(peak.source).set(peak.rate)

    def begin(self, run: Run) -> None:
        """Take the run's totals so far as shown. What may be counted is shown as 0, so that the first one is a rise."""
        self._shown = Counter(run.counters)
        for topic in (SESSIONS, GROUPS):
            metrics.TRAINER_DEAD_LETTERS.labels(topic_name(run.identity.prefix, topic))
        for outcome in OUTCOMES:
            metrics.TRAINER_GROUPS.labels(outcome)

    def show(
        self,
        run: Run,
        step: StepMetrics,
        judgements: list[Judgement],
        seconds: float,
        lag: dict[int, int],
        utilisation: float,
    ) -> None:
        """After a step: counters grow by what it added, gauges take its values."""
        new, self._shown = run.counters - self._shown, Counter(run.counters)
        self._count(new, topic_name(run.identity.prefix, SESSIONS))
        metrics.TRAINER_STEP.set(run.step)
        metrics.TRAINER_FILTER_MEDIAN.set(run.filter_median_ms / 1000)
        metrics.TRAINER_REQUESTS_OUTSTANDING.set(len(run.frontier.outstanding))
        metrics.TRAINER_STEP_SECONDS.observe(seconds)
        for partition, records in lag.items():
            metrics.TRAINER_STREAM_LAG.labels(SESSIONS, str(partition)).set(records)
        for level, loss in enumerate(step.loss_per_level, 1):
            metrics.TRAINER_LOSS.labels(str(level)).set(loss)
        metrics.TRAINER_GRADIENT_NORM.labels("next_token").set(step.sft_grad_norm)
        if step.max_violation is not None:
            metrics.TRAINER_LOAD_VIOLATION.set(step.max_violation)
        metrics.TRAINER_STEP_FLOPS.set(step.flops)
        metrics.TRAINER_MODEL_FLOPS_UTILISATION.set(utilisation)
        groups = [judgement for judgement in judgements if judgement.sample]
        if groups:
            metrics.TRAINER_RL_LOSS.labels("preference").set(step.preference_loss)
            metrics.TRAINER_RL_LOSS.labels("format").set(step.format_loss)
            metrics.TRAINER_GRADIENT_NORM.labels("reinforcement").set(step.rl_grad_norm)
            metrics.TRAINER_CLIPPED_SHARE.set(step.clipped_share)
            metrics.TRAINER_POLICY_RATIO.set(step.mean_ratio)
        if step.feedback_positive + step.feedback_negative:
            metrics.TRAINER_RL_LOSS.labels("feedback").set(step.feedback_loss)
        for judgement in judgements:
            _show_group(judgement, run)
            if judgement.refused:
                metrics.TRAINER_DEAD_LETTERS.labels(topic_name(run.identity.prefix, GROUPS)).inc()

    def _count(self, new: Counter[str], sessions_topic: str) -> None:
        for name, amount in new.items():
            head, _, kind = name.partition(".")
            if name in COUNTERS:
                COUNTERS[name].inc(amount)
            elif head == "groups":
                metrics.TRAINER_GROUPS.labels(kind).inc(amount)
            elif name == "sessions.rejected":
                metrics.TRAINER_DEAD_LETTERS.labels(sessions_topic).inc(amount)


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Count the time spent inside as waiting; also a decorator."""
    began = time.perf_counter()
    try:
        yield
    finally:
        metrics.TRAINER_WAITED.labels(what).inc(time.perf_counter() - began)


def _show_group(judgement: Judgement, run: Run) -> None:
    group = judgement.group
    if group and judgement.settled.request:
        metrics.TRAINER_STALENESS.observe(run.staleness.lag(group.parameter_version))
        if (legal := legal_share(group)) is not None:
            metrics.TRAINER_GROUP_LEGALITY.observe(legal)
        if (reward := mean_reward(group)) is not None:
            metrics.TRAINER_GROUP_REWARD.observe(reward)
    if judgement.parity_error is not None:
        metrics.TRAINER_PARITY_ERROR.set(judgement.parity_error)
