"""How a metric is declared: once, with name, kind, unit, help and labels, and registered with Prometheus at the same time.

The declarations themselves are in `common.metrics`. A name is ``onerec_<worker>_<what>_<unit>``; counters end in ``_total``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, Summary

REGISTRY = CollectorRegistry()
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
UNITS = {
    "bytes": "bytes",
    "flops": "FLOP",
    "nats": "nats",
    "norm": "norm",
    "number": "number",
    "ratio": "ratio",
    "records": "records",
    "seconds": "seconds",
    "versions": "versions",
}
"""The last word of a name, and the unit that it stands for; a counter of none of them counts. Numbers are counts or
versions, as the help says; norms and ratios have no unit."""
Kind = Literal["counter", "gauge", "histogram", "summary"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One metric as Prometheus sees it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]

    @property
    def worker(self) -> str:
        """The worker that sets it."""
        return self.name.split("_")[1]

    @property
    def unit(self) -> str:
        """What its value is counted in."""
        return UNITS.get(self.name.removesuffix("_total").rpartition("_")[2], "count")


CATALOGUE: dict[str, Entry] = {}
"""Every metric that was declared, by name."""


class Measured(Gauge):
    """A gauge that shows nothing before it is first set: a process that does not measure a figure must not say that it is 0,
    and every process has all of the catalogue."""

    _is_set = False

    def set(self, value: float) -> None:
        """Set it, and show it from now on."""
        self._is_set = True
        super().set(value)

    def set_function(self, f: Callable[[], float]) -> None:
        """As `set`, with what is measured when somebody asks."""
        self._is_set = True
        super().set_function(f)

    def collect(self) -> Iterable[Metric]:
        """For the registry: of a gauge with labels, what there is by label."""
        return super().collect() if self._is_set or CATALOGUE[self._name].labels else []


def counter(name: str, text: str, *labels: str) -> Counter:
    """A counter; its name ends in ``_total``."""
    return Counter(_declared(name, "counter", text, labels), text, labels, registry=REGISTRY)


def gauge(name: str, text: str, *labels: str) -> Gauge:
    """A gauge, see `Measured`."""
    return Measured(_declared(name, "gauge", text, labels), text, labels, registry=REGISTRY)


def histogram(name: str, text: str, *labels: str, buckets: Sequence[float] = SECONDS) -> Histogram:
    """A histogram, of seconds unless other buckets are given."""
    return Histogram(_declared(name, "histogram", text, labels), text, labels, registry=REGISTRY, buckets=buckets)


def summary(name: str, text: str, *labels: str) -> Summary:
    """A sum and a count, for exact means over any time."""
    return Summary(_declared(name, "summary", text, labels), text, labels, registry=REGISTRY)


def _declared(name: str, kind: Kind, text: str, labels: tuple[str, ...]) -> str:
    entry = Entry(name, kind, text, labels)
    assert name.startswith("onerec_"), name
    assert (kind == "counter") == name.endswith("_total"), name
    assert kind == "counter" or entry.unit != "count", name
    CATALOGUE[name] = entry
    return name
