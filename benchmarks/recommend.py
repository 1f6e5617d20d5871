"""The recommend endpoint generates at 0.8 of its engine's rate, and 99 % wait below 500 ms, also at three times its load.

The v1-0.015b profile, users with 1,000 events. The endpoint is a process with the embedded Kafka and Redis; the load comes
from another one on the same cores. The rival is the endpoint's engine, called in this process on contexts at hand, in
batches as large as the endpoint's were. All users are asked for once before, so that both have compressed their histories.
The saturation rate is what is generated a second when more is asked for; then 80 % of it is asked for, and three times it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from benchmarks.endpoint import Endpoint, Engine, World, serving
from benchmarks.featurise import Scale as Size
from benchmarks.harness import BenchResult, Claim
from benchmarks.open_load import Answered, Load
from common.compute import compute_with
from common.settings import load_settings

Say = Callable[[str], None]
AT_LEAST, WITHIN_MS = 0.8, 500.0
BUSY, OVERLOAD = 0.8, 3.0
ENOUGH = 2.0
"""Of the engine's rate: more than the endpoint can generate."""


class Scale(BaseModel):
    """The benchmark's size."""

    profile: str = "v1-0.015b"
    overrides: list[str] = []
    items: int = 20_000
    topics: int = 100
    events: int = 1_000
    users: dict[int, int] = {128: 256, 512: 64}
    """By width of the beam."""
    count: int = 5
    """Items a request."""
    runs: int = 5
    """Measurements of the saturation rate."""
    run_s: float = 5.0
    load_s: float = 25.0
    """Of each of the two loads."""


def run(data: Path, on_progress: Say) -> BenchResult:  # noqa: ARG001 - everything is synthetic
    """Takes about four minutes."""
    return compare(Scale(), on_progress)


def compare(scale: Scale, on_progress: Say) -> BenchResult:
    """The benchmark at any scale; its figures are those of the first beam."""
    compute_with(threads=1)
    found = {beam: measure(scale, beam, on_progress) for beam in scale.users}
    first = next(iter(found.values()))
    return BenchResult(
        name="recommend",
        value=first.saturation,
        unit="lists a second",
        rival=statistics.median(first.engine),
        ratio=statistics.median(first.ratios),
        spread=(min(first.ratios), max(first.ratios)),
        details={
            "claims": first.claims(),
            "beams": {beam: one.model_dump(mode="json") for beam, one in found.items()},
            "scale": scale.model_dump(mode="json"),
        },
    )


class Run(BaseModel):
    """What one load did."""

    rate: float
    """Requests a second."""
    answered: Answered
    batch: float
    """Requests of a batch, the mean."""
    service_cores: float
    """Processor time of the endpoint over the load's."""


class Measured(BaseModel):
    """What was found with one endpoint."""

    engine: list[float] = []
    """The engine's rate beside each of the saturated runs, users a second."""
    saturated: list[Run] = []
    busy: Run | None = None
    overload: Run | None = None

    @property
    def saturation(self) -> float:
        """Lists generated a second when more is asked for, the median."""
        return statistics.median(one.answered.generated_rate for one in self.saturated)

    @property
    def ratios(self) -> list[float]:
        """Of the endpoint's rate to that of the engine beside it."""
        return [one.answered.generated_rate / rate for one, rate in zip(self.saturated, self.engine, strict=True)]

    def claims(self) -> list[Claim]:
        """What was promised."""
        assert self.busy is not None
        assert self.overload is not None
        ratio, runs = statistics.median(self.ratios), (*self.saturated, self.busy, self.overload)
        dropped = sum(one.answered.dropped for one in runs)
        return [
            Claim(claim=f"at least {AT_LEAST:g} of the engine's rate", holds=ratio >= AT_LEAST, figures={"ratio": ratio}),
            _in_time(f"at {BUSY:.0%} of saturation", self.busy),
            _in_time(f"at {OVERLOAD:g} times saturation", self.overload),
            Claim(claim="no request is dropped", holds=dropped == 0, figures={"dropped": dropped}),
        ]


def _in_time(when: str, run: Run) -> Claim:
    p99 = run.answered.latency_ms["p99"]
    return Claim(claim=f"p99 below {WITHIN_MS:g} ms {when}", holds=p99 < WITHIN_MS, figures={"p99_ms": p99})


def measure(scale: Scale, beam: int, on_progress: Say) -> Measured:
    """Start an endpoint, saturate it beside its engine, then load it."""
    settings = load_settings(scale.profile, [*scale.overrides, f"recommend.beam={beam}"])
    users, found = scale.users[beam], Measured()
    size = Size(policy=settings.policy, items=scale.items, topics=scale.topics, events=scale.events, contexts=users)
    world = World(settings, size)
    engine, batch = Engine(world), float(settings.recommend.batch)
    with tempfile.TemporaryDirectory() as name, serving(Path(name), world) as endpoint:
        on_progress(f"beam {beam}: {users} users")
        endpoint.ask_for(users)

        def load(what: str, rate: float, seconds: float) -> Run:
            asked = Load(url=endpoint.url, rate=rate, seconds=seconds, users=users, count=scale.count)
            run = _run(endpoint, asked)
            on_progress(f"{what}, {rate:.1f}/s: {run.answered.generated_rate:.1f}/s generated, {run.answered.latency_ms}")
            return run

        load("first", engine.rate(round(batch), scale.run_s / 4), scale.run_s / 4)
        for _ in range(scale.runs):
            found.engine.append(engine.rate(round(batch), scale.run_s / 2))
            found.saturated.append(load("saturated", ENOUGH * found.engine[-1], scale.run_s))
            batch = found.saturated[-1].batch
        found.busy = load("busy", BUSY * found.saturation, scale.load_s)
        found.overload = load("overload", OVERLOAD * found.saturation, scale.load_s)
    return found


def _run(endpoint: Endpoint, load: Load) -> Run:
    answered, batch, cores = endpoint.take(load)
    return Run(rate=load.rate, answered=answered, batch=batch, service_cores=cores)
