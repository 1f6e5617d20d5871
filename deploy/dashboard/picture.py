"""The loop as a picture: its parts and topics as boxes, rates and versions on the arrows between them.

Drawn twice, wide and tall; the page's style shows the one that fits. Positions are in the picture's own units, pixels at
its natural size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from markupsafe import Markup, escape

from deploy.dashboard.screen import rate
from deploy.dashboard.state import LoopState
from deploy.local.shown import UNKNOWN, number, share


class Box(NamedTuple):
    """Where a part is."""

    x: float
    y: float
    width: float
    height: float


class Arrow(NamedTuple):
    """A line with a head, and where its label stands."""

    path: str
    label: str
    """Key of the labels."""
    x: float = 0.0
    y: float = 0.0
    anchor: Literal["start", "middle", "end"] = "middle"


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to lay the loop out."""

    name: str
    width: float
    height: float
    boxes: Mapping[str, Box]
    arrows: tuple[Arrow, ...]


WIDE = Layout(
    "wide",
    1200,
    430,
    {
        "users": Box(4, 168, 88, 52),
        "sessions": Box(182, 172, 124, 44),
        "trainer": Box(392, 134, 166, 120),
        "rollout-requests": Box(640, 136, 154, 46),
        "rollout-groups": Box(640, 206, 154, 46),
        "rollout": Box(876, 134, 132, 120),
        "reward": Box(1072, 150, 124, 88),
        "learner": Box(1072, 6, 124, 68),
        "dead-letters": Box(405, 44, 140, 44),
        "recommend": Box(176, 334, 136, 76),
        "redis": Box(410, 340, 130, 64),
        "tokenizer": Box(876, 334, 132, 76),
        "items": Box(1072, 349, 124, 46),
    },
    (
        Arrow("M92 194 H176", "users", 134, 186),
        Arrow("M306 194 H386", "sessions", 346, 186),
        Arrow("M558 159 H634", "requests", 596, 151),
        Arrow("M794 159 H870", "produced", 832, 151),
        Arrow("M876 229 H800", "produced", 838, 221),
        Arrow("M640 229 H564", "settled", 602, 221),
        Arrow("M1008 194 H1066", "scored items", 1038, 186),
        Arrow("M475 134 V94", "letters", 485, 118, "start"),
        Arrow("M244 172 V28 H1066", "impressions", 700, 20),
        Arrow("M1134 74 V144", "reward model", 1124, 104, "end"),
        Arrow("M475 254 V334", "version", 485, 298, "start"),
        Arrow("M540 372 H842 V246 H870", "actors", 691, 364),
        Arrow("M410 372 H318", "recommend", 361, 364),
        Arrow("M176 372 H48 V226", "lists", 112, 364),
        Arrow("M244 216 V328", ""),
        Arrow("M1072 372 H1014", "item events", 1042, 364),
        Arrow("M942 334 V260", "index", 952, 302, "start"),
    ),
)
TALL = Layout(
    "tall",
    366,
    802,
    {
        "users": Box(2, 2, 96, 46),
        "sessions": Box(228, 2, 136, 46),
        "trainer": Box(74, 98, 290, 84),
        "rollout-requests": Box(64, 232, 146, 46),
        "rollout-groups": Box(222, 232, 142, 46),
        "rollout": Box(74, 328, 290, 84),
        "redis": Box(2, 470, 112, 84),
        "reward": Box(226, 470, 138, 84),
        "recommend": Box(2, 608, 136, 76),
        "learner": Box(226, 608, 138, 76),
        "tokenizer": Box(2, 724, 136, 76),
        "items": Box(226, 739, 138, 46),
    },
    (
        Arrow("M98 25 H222", "users", 160, 17),
        Arrow("M296 48 V92", "sessions", 286, 75, "end"),
        Arrow("M138 182 V226", "requests", 148, 210, "start"),
        Arrow("M300 232 V188", "settled", 290, 210, "end"),
        Arrow("M138 278 V322", "produced", 148, 304, "start"),
        Arrow("M300 328 V284", "produced", 290, 304, "end"),
        Arrow("M74 140 H26 V464", "version", 34, 216, "start"),
        Arrow("M96 470 V418", "actors", 106, 446, "start"),
        Arrow("M300 412 V464", "scored items", 290, 446, "end"),
        Arrow("M58 554 V602", "recommend", 68, 582, "start"),
        Arrow("M300 608 V560", "reward model", 290, 588, "end"),
        Arrow("M226 762 H144", "item events", 182, 754),
    ),
)
NAMES = {
    "rollout": "rollout fleet",
    "reward": "reward service",
    "dead-letters": "dead letters",
    "redis": "Redis",
}
PARTS = ("trainer", "rollout", "reward", "learner", "tokenizer", "recommend", "redis")
TOPICS = ("sessions", "rollout-requests", "rollout-groups", "items", "dead-letters")
LINE = 17


def draw(state: LoopState, layout: Layout) -> Markup:
    """The picture of a state."""
    labels, texts = arrow_labels(state), box_texts(state)
    states = {part.name: part.state for part in state.parts}
    marker = f"head-{layout.name}"
    shapes = [_opening(layout, marker)]
    shapes += [_arrow(arrow, labels.get(arrow.label, ""), marker) for arrow in layout.arrows]
    for name, box in layout.boxes.items():
        look = states.get("kafka", "unknown") if name in TOPICS else states.get(name, "off")
        shapes.append(_box(name, box, "person" if name == "users" else look, texts.get(name, [])))
    return Markup("".join((*shapes, "</svg>")))  # noqa: S704 - every text in it was escaped


def _opening(layout: Layout, marker: str) -> str:
    about = "The loop: sessions over Kafka to the trainer, requests to the fleet, groups back, parameters over Redis"
    head = '<path class="head" d="M0 0 L8 4 L0 8 z"/>'
    size = 'viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto"'
    return (
        f'<svg class="loop {layout.name}" viewBox="0 0 {layout.width:g} {layout.height:g}" role="img" aria-label="{about}">'
        f'<defs><marker id="{marker}" {size}>{head}</marker></defs>'
    )


def arrow_labels(state: LoopState) -> dict[str, str]:
    """What stands on the arrows, by their keys."""
    told = {name: rate(state.rates.get(name)) for name in ("users", "sessions", "requests", "produced", "settled", "lists")}
    served = state.recommend_version
    return told | {
        "scored items": rate(state.rates.get("scored items")),
        "impressions": f"{rate(state.rates.get('impressions')).removesuffix('/s')} impressions/s",
        "item events": rate(state.rates.get("item events")),
        "letters": number(state.letters.count),
        "version": f"version {number(state.figures.version, 'd')}",
        "actors": "version " + (" and ".join(map(str, sorted(set(state.figures.actors.values())))) or UNKNOWN),
        "recommend": f"version {served}" if served is not None and served >= 0 else "",
        "reward model": f"model {number(state.reward_model, 'd')}",
        "index": f"index {number(state.published_index, 'd')}",
    }


def box_texts(state: LoopState) -> dict[str, list[str]]:
    """What stands in the boxes below their names."""
    figures, lag = state.figures, state.lag
    waiting = {name: f"{number(lag[name])} waiting" for name in ("sessions", "requests", "items")}
    return {
        "sessions": [waiting["sessions"]],
        "rollout-requests": [waiting["requests"]],
        "rollout-groups": [f"{number(figures.outstanding)} outstanding"],
        "items": [waiting["items"]],
        "trainer": [
            f"step {number(figures.step)}, loss {number(figures.loss, '.3f')}",
            f"checkpoint {number(state.checkpoint.step if state.checkpoint else None)}",
        ],
        "rollout": [f"{len(figures.actors) or UNKNOWN} actors", f"legality {share(figures.legality)}"],
        "reward": ["scores items", f"P-Score {number(figures.reward, '.3f')}"],
        "recommend": ["endpoint"],
        "tokenizer": [f"index {number(state.published_index, 'd')}"],
    }


def _arrow(arrow: Arrow, label: str, marker: str) -> str:
    line = f'<path class="arrow" d="{arrow.path}" marker-end="url(#{marker})"/>'
    if not label:
        return line
    return f'{line}<text class="label" x="{arrow.x:g}" y="{arrow.y:g}" text-anchor="{arrow.anchor}">{escape(label)}</text>'


def _box(name: str, box: Box, look: str, texts: list[str]) -> str:
    kind = "topic" if name in TOPICS else "part"
    lines = list(_lines(name, look, texts))
    middle, first = box.x + box.width / 2, box.y + box.height / 2 - LINE * (len(lines) - 1) / 2 + 4.5
    written = "".join(
        f'<text class="{style}" x="{middle:g}" y="{first + LINE * k:g}" text-anchor="middle">{escape(text)}</text>'
        for k, (text, style) in enumerate(lines)
    )
    radius = box.height / 2 if kind == "topic" else 8
    return (
        f'<g class="{kind} {look}"><rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" '
        f'rx="{radius:g}"/>{written}</g>'
    )


def _lines(name: str, look: str, texts: list[str]) -> Iterator[tuple[str, str]]:
    yield NAMES.get(name, name), "name"
    for text in texts:
        yield text, "text"
    if name in PARTS:
        yield look, "look"
