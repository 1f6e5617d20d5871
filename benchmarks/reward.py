"""The reward service scores at least 0.8 of the items a second that its model scores when it is called in process.

A preference model of the shipped size with random weights, 512 items a request, users with 1,000 events. The service is two
replicas, the fewest that the Kubernetes manifests run; one alone is measured, too. Four processes ask them over HTTP as
rollout actors do, each over a connection of its own to one replica and one request after the other: with as many callers as
cores, replicas would wait while a caller reads its answer. The model is called on contexts and items at hand, in two threads
of this process. Each has one torch thread, as a replica's two have. All take their turns from a counter: an executor's queue
to its processes takes half a millisecond for each request, which no actor spends.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from benchmarks.featurise import Scale as World
from benchmarks.featurise import catalogue, sample
from benchmarks.harness import BenchResult, Claim, Race, race
from common.compute import compute_with
from common.context import Context
from common.item_index import ItemIndex
from common.messages import UserContext
from common.settings import Settings, save_settings
from deploy.local.leash import tie
from deploy.local.processes import spawn
from reward_service.artefact import load_artefact, save_artefact
from reward_service.fit import Learner
from reward_service.inputs import InputBuilder, Requests, Shape, Targets
from reward_service.labels import OBJECTIVES
from reward_service.preference_model import PreferenceModel
from rollout.reward_client import RewardClient

Say = Callable[[str], None]
AT_LEAST = 0.8
READY_S = 60.0
REPLICAS, CALLERS, THREADS = 2, 4, 2


class Scale(BaseModel):
    """The benchmark's size."""

    world: World = World(policy=Settings().policy, events=1_000)
    items: int = 512
    requests: int = 100
    """Of a run."""
    runs: int = 7


def run(data: Path, on_progress: Say) -> BenchResult:  # noqa: ARG001 - everything is synthetic
    """Takes about two minutes."""
    return compare(Scale(), on_progress)


def compare(scale: Scale, on_progress: Say) -> BenchResult:
    """The benchmark at any scale."""
    compute_with(threads=1)
    rng = np.random.default_rng(0)
    index, topic = catalogue(scale.world, rng)
    contexts = [sample(scale.world, index, topic, user, rng).context for user in range(scale.world.contexts)]
    items = [rng.choice(index.item_ids, scale.items, replace=False) for _ in contexts]
    with ExitStack() as opened:
        folders = [Path(opened.enter_context(tempfile.TemporaryDirectory())) for _ in range(REPLICAS)]
        urls = [opened.enter_context(served(folder, index)) for folder in folders]
        model = InProcess(folders[0], index, contexts, items)
        spawning = multiprocessing.get_context("spawn")
        asked = [
            (context.to_message().model_dump_json(), chosen.tolist())
            for context, chosen in zip(contexts, items, strict=True)
        ]
        asking, scoring = Turns(spawning, scale.requests), Turns(spawning, scale.requests)
        remote = opened.enter_context(ProcessPoolExecutor(CALLERS, spawning, _begin, (os.getpid(), urls, asked, asking)))
        local = opened.enter_context(ThreadPoolExecutor(THREADS))

        def beside_the_model(replicas: int) -> Race:
            on_progress(f"{scale.requests} requests, {scale.runs} times, replicas: {replicas}")
            return race(
                lambda: asking.share(remote, CALLERS, partial(_ask_all, replicas)),
                lambda: scoring.share(local, THREADS, lambda _: model.score_all(scoring)),
                scale.runs,
            )

        timed, alone = beside_the_model(REPLICAS), beside_the_model(1)
    scored = scale.requests * scale.items
    claim = Claim(
        claim=f"at least {AT_LEAST:g} of the model's rate", holds=timed.ratio >= AT_LEAST, figures={"ratio": timed.ratio}
    )
    return BenchResult(
        name="reward",
        value=scored / timed.value,
        unit="items a second",
        rival=scored / timed.rival_value,
        ratio=timed.ratio,
        spread=timed.spread,
        details={
            "seconds": {"ours": timed.ours, "rival": timed.rival},
            "one_replica": {
                "value": scored / alone.value,
                "rival": scored / alone.rival_value,
                "ratio": alone.ratio,
                "spread": alone.spread,
                "seconds": {"ours": alone.ours, "rival": alone.rival},
            },
            "claims": [claim],
            "scale": scale.model_dump(mode="json"),
        },
    )


class Turns:
    """Numbers of requests, each for one of several threads or processes."""

    def __init__(self, context: SpawnContext, requests: int) -> None:
        self.requests, self._next = requests, context.Value("q", 0)

    def share(self, callers: Executor, count: int, call: Callable[[int], None]) -> None:
        """From the first number on, until so many calls have returned."""
        self._next.value = 0
        for _ in callers.map(call, range(count)):
            pass

    def __iter__(self) -> Iterator[int]:
        """Those that are left."""
        while True:
            with self._next.get_lock():
                number = self._next.value
                self._next.value += 1
            if number >= self.requests:
                return
            yield number


class InProcess:
    """The model, called as the service calls it, without messages."""

    def __init__(self, folder: Path, index: ItemIndex, contexts: list[Context], items: list[np.ndarray]) -> None:
        artefact = load_artefact(folder / "reward")
        self.model, self.shape = artefact.model, artefact.card.shape
        self.builder, self.contexts, self.items = InputBuilder(self.shape, index), contexts, items

    def score_all(self, numbers: Iterable[int]) -> None:
        """Their scores."""
        for number in numbers:
            self.score(number)

    @torch.inference_mode()
    def score(self, number: int) -> None:
        """One request's scores."""
        which = number % len(self.contexts)
        rows = self.builder.index.rows(self.items[which])
        targets = Targets(np.zeros(len(rows), np.int64), rows, np.zeros(len(rows), np.int64))
        outputs = self.model(self.builder(Requests.of_contexts([self.contexts[which]], self.shape), targets))
        outputs.p.sigmoid().tolist()


@contextmanager
def served(folder: Path, index: ItemIndex) -> Iterator[str]:
    """The URL of a reward service for an untrained model."""
    settings = Settings()
    save_settings(settings, folder / "settings.json")
    index.save(folder / "index" / "000001")
    torch.manual_seed(0)
    learner = Learner(PreferenceModel(Shape.of(settings, index)), np.ones(len(OBJECTIVES)), 1e-3)
    save_artefact(folder / "reward", learner, index, {}, clicks_recorded=True)
    command = [sys.executable, "-m", "reward_service", "--run-folder", str(folder)]
    child = spawn(command, folder / "reward.log", None, "reward service")
    try:
        yield _url(folder)
    finally:
        child.terminate(10.0)


def _url(folder: Path) -> str:
    deadline, told = time.monotonic() + READY_S, folder / "ready" / "reward.json"
    while not told.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the reward service is not ready: {(folder / 'reward.log').read_text()[-2000:]}")
        time.sleep(0.05)
    return str(json.loads(told.read_bytes())["url"])


_client: dict[str, Any] = {}
"""A calling process's own."""


def _begin(parent: int, urls: list[str], asked: list[tuple[str, list[int]]], turns: Turns) -> None:
    tie(parent)
    _client["of"], _client["turns"] = [RewardClient(url) for url in urls], turns
    _client["asked"] = [(UserContext.model_validate_json(context), items) for context, items in asked]


def _ask_all(replicas: int, caller: int) -> None:
    """Of the first so many replicas, the caller's."""
    asked, client = _client["asked"], _client["of"][caller % replicas]
    for number in _client["turns"]:
        context, items = asked[number % len(asked)]
        scores = client.score(context, items, index_version=1)
        assert len(scores.rewards) == len(items)
