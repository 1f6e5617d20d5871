"""The trainer's Prometheus metrics, read from the run's state when they are scraped."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

COUNTERS = {
    "onerec_trainer_sessions": "Sessions by fate: consumed, valid, rejected, duplicates, kept.",
    "onerec_trainer_groups": "Records of the groups topic by outcome.",
    "onerec_trainer_requests": "Rollout requests: sent, or skipped because too many were outstanding.",
    "onerec_trainer_impressions": "Impressions of items that the index does not know.",
    "onerec_trainer_targets": "Next-token targets of kept sessions.",
}
GAUGES = {
    "onerec_trainer_steps": "Steps of the run.",
    "onerec_trainer_version_steps": "Newest committed parameter version.",
    "onerec_trainer_outstanding_requests": "Rollout requests without a settled group.",
    "onerec_trainer_lag_messages": "Sessions in the log that are not consumed yet.",
    "onerec_trainer_loss_nats": "Next-token loss of the last step, summed over the levels.",
    "onerec_trainer_step_seconds": "Duration of the last step.",
    "onerec_trainer_filter_median_seconds": "Play time that a session must beat to be kept.",
}


class TrainerMetrics:
    """Serves the run's counters and gauges on a loopback port chosen by the system."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counters: dict[str, int] = {}
        self._gauges: dict[str, float] = {}
        registry = CollectorRegistry()
        registry.register(self)
        self._server, self._thread = start_http_server(0, "127.0.0.1", registry)

    @property
    def port(self) -> int:
        """Where ``/metrics`` is served."""
        return int(self._server.server_port)

    def show(self, counters: dict[str, int], gauges: dict[str, float]) -> None:
        """Set what the next scrape sees: totals by counter name (``sessions.kept``), and gauges by full name."""
        with self._lock:
            self._counters, self._gauges = dict(counters), dict(gauges)

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        with self._lock:
            counters, gauges = self._counters, self._gauges
        for name, text in COUNTERS.items():
            family = CounterMetricFamily(name, text, labels=["kind"])
            short = name.removeprefix("onerec_trainer_")
            for counter, value in counters.items():
                head, _, kind = counter.partition(".")
                if head == short:
                    family.add_metric([kind or "all"], value)
            yield family
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(name, text, value=gauges.get(name, 0.0))

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
