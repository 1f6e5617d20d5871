"""What the workers of a run tell on their metrics endpoints, read by name over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 1.0
AT_ONCE = 8
LEARNER = "onerec_reward_learner_"
"""What the reward service and its learner share begins alike."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of a worker."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Scrape:
    """What all workers told at one moment. A worker that did not answer is not in ``answered``."""

    answered: frozenset[str]
    samples: tuple[Sample, ...]

    def total(self, name: str, **labels: str) -> float | None:
        """The sum of a metric's series with these labels, over all workers; None where nobody told one."""
        values = [sample.value for sample in self._series(name, labels)]
        return sum(values) if values else None

    def by(self, name: str, label: str) -> dict[str, float]:
        """A metric's values by one of its labels."""
        return {sample.labels[label]: sample.value for sample in self._series(name, {}) if label in sample.labels}

    def _series(self, name: str, labels: Mapping[str, str]) -> list[Sample]:
        return [s for s in self.samples if s.name == name and labels.items() <= s.labels.items()]


class Scraper:
    """Asks all endpoints at the same time, each for `TIMEOUT_S` at most."""

    def __init__(self) -> None:
        self._client = httpx.Client(timeout=TIMEOUT_S, trust_env=False)
        self._threads = ThreadPoolExecutor(AT_ONCE, "scrape")

    def scrape(self, endpoints: Mapping[str, str]) -> Scrape:
        """Name of a worker -> address of its metrics."""
        told = dict(zip(endpoints, self._threads.map(self._ask, endpoints.keys(), endpoints.values()), strict=True))
        answered = {name: samples for name, samples in told.items() if samples is not None}
        return Scrape(frozenset(answered), tuple(sample for samples in answered.values() for sample in samples))

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def _ask(self, worker: str, url: str) -> list[Sample] | None:
        try:
            text = self._client.get(url).raise_for_status().text
            families = text_string_to_metric_families(text)
            samples = [Sample(s.name, s.labels, s.value) for family in families for s in family.samples]
            return [sample for sample in samples if is_own(worker, sample.name)]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            return None


def is_own(worker: str, metric: str) -> bool:
    """Whether a metric is one that this worker measures: each also tells those of all others, which stay at zero there."""
    if worker == "learner":
        return metric.startswith(LEARNER)
    owner = worker.partition("-")[0]  # ranks of the trainer are trainer, trainer-1, …
    return metric.startswith(f"onerec_{owner}_") and not metric.startswith(LEARNER)
