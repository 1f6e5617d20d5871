"""The engine's time grows slowly with the catalogue, and no faster than the beam, the users and the history do.

Five curves, each along one size, all else as in `benchmarks.rollout` (one user, 512 beams over 3 x 8192 codes, width 128,
random weights): the catalogue of a constrained search, the beam's width, users at a time, and the number of Ray actors, of
one thread each, that search at once. The history's is that of `benchmarks.featurise`: features of one context of the
v1-0.015b profile, nothing compressed before, one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from benchmarks import featurise
from benchmarks.harness import BenchResult, Claim, machine, seconds
from benchmarks.rollout import Scale as Search
from benchmarks.rollout import World
from common.compute import compute_with
from common.features import Featurizer
from common.policy import build_policy
from common.settings import load_settings
from common.tensor_trie import TensorTrie
from rollout.beam_search import beam_search
from rollout.ray_node import prepare_environment, ray_node

Say = Callable[[str], None]
SLOWLY = 2.0
"""A thousand times the catalogue may take this many times as long."""
SCALES = 1.5
"""What two actors must do more than one on two cores."""


class Scale(BaseModel):
    """The points of each curve."""

    search: Search = Search(items=50_000, topics=200)
    catalogue: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    beam: tuple[int, ...] = (32, 128, 512, 2048)
    users: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    features: featurise.Scale
    history: tuple[int, ...] = (10, 100, 1_000, 10_000, 100_000)
    actors: tuple[int, ...] = (1, 2, 4)
    actor_searches: int = 8
    runs: int = 5


class Curve(BaseModel):
    """Times along one size: ``seconds[k]`` are all runs at ``sizes[k]``."""

    size: str
    what: str
    sizes: list[int]
    seconds: list[list[float]]

    @property
    def medians(self) -> list[float]:
        """Of each size's runs."""
        return [median(runs) for runs in self.seconds]

    @property
    def growth(self) -> float:
        """The last median over the first."""
        return self.medians[-1] / self.medians[0]


def run(data: Path, on_progress: Say) -> BenchResult:  # noqa: ARG001 - everything is synthetic
    """All five curves; takes about ten minutes and 5 GiB."""
    return measure(Scale(features=featurise.Scale(policy=load_settings("v1-0.015b").policy, contexts=1)), on_progress)


def measure(scale: Scale, on_progress: Say) -> BenchResult:
    """The benchmark at any scale."""
    compute_with(torch.get_num_threads())  # as `benchmarks.rollout`
    told = machine()  # before the history's curve is left with one thread
    curves = [
        catalogue(scale, on_progress),
        beam(scale, on_progress),
        users(scale, on_progress),
        actors(scale, on_progress),
        history(scale, on_progress),
    ]
    by_size = {curve.size: curve for curve in curves}
    at = by_size["beam"]
    return BenchResult(
        name="growth",
        value=at.medians[at.sizes.index(scale.search.width)],
        unit=f"seconds a search of {scale.search.width} beams",
        machine=told,
        details={
            "curves": {curve.size: curve.model_dump() for curve in curves},
            "claims": claims(by_size),
            "scale": scale.model_dump(mode="json"),
        },
    )


def claims(curves: dict[str, Curve]) -> list[Claim]:
    """What the curves come to."""
    growth = {name: curve.growth for name, curve in curves.items()}
    sizes = {name: curve.sizes[-1] / curve.sizes[0] for name, curve in curves.items()}

    def bounded(name: str, most: float, text: str) -> Claim:
        return Claim(claim=text, holds=growth[name] <= most, figures={"size": sizes[name], "time": growth[name]})

    together = curves["actors"]
    gain = together.medians[0] / together.medians[1]
    return [
        bounded("catalogue", SLOWLY, f"the largest catalogue takes at most {SLOWLY:g} times as long as the smallest"),
        bounded("beam", sizes["beam"], "time grows no faster than the beam"),
        bounded("users", sizes["users"], "users together take no longer than one by one"),
        bounded("history", sizes["history"], "features take no longer than their history grows"),
        Claim(
            claim=f"{together.sizes[1]} actors do at least {SCALES:g} times what {together.sizes[0]} does",
            holds=gain >= SCALES,
            figures={"ratio": gain},
        ),
    ]


@torch.no_grad()
def catalogue(scale: Scale, on_progress: Say) -> Curve:
    """Searches constrained to catalogues of several sizes."""
    taken = []
    for items in scale.catalogue:
        on_progress(f"catalogue of {items:,} items")
        search = scale.search.model_copy(update={"items": items, "topics": min(items, scale.search.policy.codes)})
        world = World(search)
        taken.append(_searches(search, world, 1, search.width, scale.runs, TensorTrie(world.index.trie)))
    return Curve(size="catalogue", what="a constrained search", sizes=list(scale.catalogue), seconds=taken)


@torch.no_grad()
def beam(scale: Scale, on_progress: Say) -> Curve:
    """Free searches of several widths."""
    world, taken = World(scale.search), []
    for width in scale.beam:
        on_progress(f"{width} beams")
        taken.append(_searches(scale.search, world, 1, width, scale.runs))
    return Curve(size="beam", what="a free search", sizes=list(scale.beam), seconds=taken)


@torch.no_grad()
def users(scale: Scale, on_progress: Say) -> Curve:
    """Free searches for several users at a time."""
    world, taken = World(scale.search), []
    for count in scale.users:
        on_progress(f"{count} users at a time")
        taken.append(_searches(scale.search, world, count, scale.search.width, scale.runs))
    return Curve(size="users", what="a free search for all of them", sizes=list(scale.users), seconds=taken)


def history(scale: Scale, on_progress: Say) -> Curve:
    """Features of one context with histories of several lengths."""
    compute_with(threads=1)
    rng = np.random.default_rng(0)
    index, topic = featurise.catalogue(scale.features, rng)
    taken = []
    for events in scale.history:
        on_progress(f"history of {events:,} events")
        one = featurise.sample(scale.features.model_copy(update={"events": events}), index, topic, 0, rng).context
        policy = scale.features.policy
        taken.append([seconds(lambda: Featurizer(policy, index)([one])) for _ in range(scale.runs + 1)][1:])  # noqa: B023
    return Curve(size="history", what="features of one context", sizes=list(scale.history), seconds=taken)


def actors(scale: Scale, on_progress: Say) -> Curve:
    """The same searches by several actors at once, each of one thread."""
    prepare_environment()
    import ray

    taken = []
    with ray_node(max(scale.actors)):
        started: list[Any] = [ray.remote(num_cpus=1)(Searcher).remote(scale.search) for _ in range(max(scale.actors))]
        for count in scale.actors:
            on_progress(f"{count} actors")
            together = list(zip(started, np.array_split(np.arange(scale.actor_searches), count), strict=False))

            def all_of_them() -> None:
                ray.get([actor.search.remote(len(share)) for actor, share in together])  # noqa: B023

            all_of_them()  # each is up, and warm
            taken.append([seconds(all_of_them) for _ in range(scale.runs)])
    return Curve(size="actors", what=f"{scale.actor_searches} searches", sizes=list(scale.actors), seconds=taken)


class Searcher:
    """An actor's engine."""

    def __init__(self, search: Search) -> None:
        compute_with(threads=1)
        self._search, self._world = search, World(search)

    def search(self, count: int) -> None:
        """So many searches, one after the other."""
        with torch.no_grad():
            _searches(self._search, self._world, 1, self._search.width, count, warm_up=False)


def _searches(
    search: Search, world: World, count: int, width: int, runs: int, legal: TensorTrie | None = None, *, warm_up: bool = True
) -> list[float]:
    """Seconds of whole searches, from contexts to beams."""
    policy = build_policy(search.policy, seed=0).eval()
    featurizer = Featurizer(search.policy, world.index)
    contexts = [world.context(search.policy.positive_length + 20).context for _ in range(count)]

    def once() -> None:
        beam_search(policy, policy.encode(featurizer(contexts)), width, legal)

    return [seconds(once) for _ in range(runs + warm_up)][warm_up:]


def plot(axes: Any, result: BenchResult) -> bool:
    """The five curves beside each other, on logarithmic axes; dashed is what grows as its size does."""
    curves = [Curve.model_validate(curve) for curve in result.details["curves"].values()]
    figure = axes.figure
    axes.remove()
    figure.set_size_inches(12, 6.5)
    for one, curve in zip(figure.subplots(2, 3).flat, curves, strict=False):
        one.plot(curve.sizes, curve.medians, "o-")
        one.fill_between(curve.sizes, [min(s) for s in curve.seconds], [max(s) for s in curve.seconds], alpha=0.2)
        proportional = [curve.medians[0] * size / curve.sizes[0] for size in curve.sizes]
        one.plot(curve.sizes, proportional, "--", color="grey", linewidth=0.8)
        low, high = min(map(min, curve.seconds)), max(map(max, curve.seconds))
        one.set(xscale="log", yscale="log", ylim=(low / 2, high * 2), xlabel=curve.size, ylabel="seconds", title=curve.what)
    figure.axes[-1].set_axis_off()
    return True
