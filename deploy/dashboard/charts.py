"""Courses of figures as small SVG charts: drawn here, since a page without scripts of others shows them offline."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from deploy.dashboard.course import Points

WIDTH, HEIGHT = 300, 132
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 22
TICKS = 3


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure over the time of the run."""

    name: str
    title: str
    unit: str
    form: str
    """Of its values, in Python's format."""
    scale: float = 1.0
    """What values are shown times."""


CHARTS = (
    Chart("loss", "Next-token loss", "nats a target", ".3f"),
    Chart("reward", "Reward of groups", "mean P-Score", ".4f"),
    Chart("legality", "Legality", "% of candidates", ".1f", 100.0),
    Chart("staleness", "Staleness", "versions", ".2f"),
)


def draw(chart: Chart, points: Points) -> Markup:
    """The chart; a line that says so where there are fewer than two points."""
    if len(points) < 2:
        return Markup('<p class="none">nothing measured yet</p>')
    times = [time for time, _ in points]
    values = [value * chart.scale for _, value in points]
    ticks = _ticks(min(values), max(values))
    low, high = min(ticks[0], *values), max(ticks[-1], *values)
    last = max(times[-1], 1.0)

    def x(time: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * time / last

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    line = " ".join(f"{x(time):.1f},{y(value):.1f}" for time, value in zip(times, values, strict=True))
    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in ticks
    )
    ends = (
        f'<text class="tick" x="{LEFT}" y="{HEIGHT - 6}">0</text>'
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{_clock(last)}</text>'
    )
    told = f"{chart.title}: {values[0]:{chart.form}} at first, {values[-1]:{chart.form}} at last"
    dot = f'<circle class="dot" cx="{x(times[-1]):.1f}" cy="{y(values[-1]):.1f}" r="3"/>'
    # Numbers and names of our own alone: nothing that a stranger wrote.
    return Markup(  # noqa: S704
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{told}"><title>{told}</title>'
        f'{grid}{ends}<polyline class="course" points="{line}"/>{dot}</svg>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """A few round values around low..high."""
    spread = max(high - low, abs(high) * 1e-3, 1e-9)
    rough = spread / TICKS
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(k * step, 10) for k in range(first, max(last, first + 1) + 1)]


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
