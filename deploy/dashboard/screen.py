"""The live state on one screen of a terminal, for `onerec status` and `onerec top`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploy.dashboard.course import Points
from deploy.dashboard.state import LoopState
from deploy.local.shown import UNKNOWN, number, share, span

BARS = "▁▂▃▄▅▆▇█"
SPARKS = 16
COLOURS = {"ready": "green", "starting": "yellow", "silent": "red", "down": "red", "ended": "dim", "unknown": "yellow"}
LINES = 3
"""Of problems and notes, each."""
Row = tuple[str, str, str]
"""Name, value, the course that belongs to it or nothing."""


def screen(state: LoopState, courses: bool) -> RenderableType:
    """Everything at most 80 columns wide and 23 lines high; with ``courses``, small ones beside the figures."""
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(style="bold", no_wrap=True, min_width=12)
    table.add_column(no_wrap=True, overflow="ellipsis")
    if courses:
        table.add_column(no_wrap=True, width=SPARKS, style="cyan")
    for name, value, course in rows(state):
        table.add_row(name, value, *([spark(state.figures.courses.get(course, []))] if courses else []))
    return Group(_title(state), _parts(state), "", table, *_told(state))


def rows(state: LoopState) -> Iterator[Row]:
    """The figures."""
    figures, rates, lag = state.figures, state.rates, state.lag
    behind = f" · {number(lag['sessions'])} waiting" if lag["sessions"] is not None else ""
    yield "step", f"{number(figures.step)} · loss {number(figures.loss, '.3f')}", "loss"
    yield "sessions", f"{number(figures.sessions)} · {rate(rates['sessions'])}{behind}", ""
    kept = figures.kept / figures.valid if figures.kept is not None and figures.valid else None
    yield "kept", f"{number(figures.kept)} ({share(kept)})", ""
    dropped = sum(figures.dropped.values())
    settled = f"{number(figures.trained)} trained, {dropped:,} dropped" if figures.step is not None else UNKNOWN
    yield "groups", f"{number(figures.requested)} asked, {settled} · {rate(rates['settled'])}", ""
    yield "reward", number(figures.reward, ".4f"), "reward"
    yield "legality", share(figures.legality), "legality"
    worst = f", at most {figures.worst_staleness}" if figures.worst_staleness is not None else ""
    yield "staleness", f"{number(figures.staleness, '.2f')} versions{worst} (bound {state.staleness_bound})", "staleness"
    actors = ", ".join(f"{actor} {version}" for actor, version in sorted(figures.actors.items()))
    yield "version", f"{number(figures.version, 'd')}{f' · {actors}' if actors else ''}", ""
    models = f"trainer {number(figures.index_version, 'd')} of {number(state.published_index, 'd')}"
    yield "item index", f"{models} · reward model {figures.reward_version or UNKNOWN}", ""
    yield "checkpoint", checkpoint(state), ""
    yield "dead letters", number(state.letters.count), ""


def checkpoint(state: LoopState) -> str:
    """The newest checkpoint in words."""
    if state.checkpoint is None:
        return UNKNOWN
    behind = state.checkpoint.steps_behind
    ago = f", {number(behind)} steps ago" if behind else ""
    return f"step {state.checkpoint.step:,} · {span(state.checkpoint.age_s)} old{ago}"


def rate(per_second: float | None) -> str:
    """A rate, with as many digits as tell something."""
    if per_second is None:
        return f"{UNKNOWN}/s"
    return f"{per_second:,.0f}/s" if per_second >= 10 or per_second == 0 else f"{per_second:.2g}/s"


def spark(points: Points) -> str:
    """The course of a figure in `SPARKS` bars between its least and its most; nothing where there are fewer than two."""
    values = [value for _, value in points]
    if len(values) < 2:
        return ""
    width = min(SPARKS, len(values))
    cuts = [len(values) * k // width for k in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    least, most = min(means), max(means)
    height = (most - least) or 1.0
    return "".join(BARS[round((mean - least) / height * (len(BARS) - 1))] for mean in means)


def _title(state: LoopState) -> Text:
    bad = bool(state.problems())
    title = Text(f"{state.run} ", style="bold")
    title.append(state.ending(), style="dim")
    if state.phase_s is not None:
        doing = " for" if state.phase == state.stage else f": {state.phase},"
        title.append(f"{doing} {span(state.phase_s)}", style="dim")
    title.append(" · ")
    title.append("something is wrong" if bad else "all is well", style="red" if bad else "green")
    title.truncate(80, overflow="ellipsis")
    return title


def _parts(state: LoopState) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    half = (len(state.parts) + 1) // 2
    for _ in range(2):
        table.add_column(min_width=10, no_wrap=True)
        table.add_column(width=27, no_wrap=True, overflow="ellipsis")
    cells = [_part_cells(state, k) for k in range(len(state.parts))]
    for left in range(half):
        right = cells[left + half] if left + half < len(cells) else (Text(), Text())
        table.add_row(*cells[left], *right)
    return table


def _part_cells(state: LoopState, k: int) -> tuple[Text, Text]:
    part = state.parts[k]
    told = Text(part.state, style=COLOURS[part.state])
    if part.pid is not None:
        told.append(f" pid {part.pid}", style="dim")
    if part.restarts:
        told.append(f" restarted {part.restarts}x", style="yellow")
    return Text(part.name), told


def _told(state: LoopState) -> Iterator[Text]:
    for lines, style in ((state.problems(), "red"), (state.notes(), "yellow")):
        told = lines if len(lines) <= LINES else [*lines[: LINES - 1], f"and {len(lines) - LINES + 1} more"]
        for line in told:
            yield Text(line, style=style, no_wrap=True, overflow="ellipsis")
