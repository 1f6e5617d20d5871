"""A search of 512 beams over 3 x 8192 codes is 60 times faster than Hugging Face's generate with the same weights.

One encoder-decoder of width 128, 2 + 2 layers, 405 context positions, with random weights, and trained for a minute on a
made-up catalogue. The rival has one vocabulary for all levels; one per level is timed once, too. Whole searches are timed,
from the encoder's inputs for the rival and from contexts for us, for one user and for eight. The rival is timed twice: with
the memory of freed tensors kept, as our processes keep it, which compares the searches alone; and as it comes, in a process
that returns this memory to the system, as every Python process does unless told otherwise. Scores are checked against
the plain search, which scores every extension. The floor counts operations and the normalisers of all beams; a pruned
search may stay below it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from benchmarks.harness import BenchResult, Claim, Floor, Race, product_rate, race, seconds
from benchmarks.t5 import LevelledT5, as_t5, encoder_inputs, generate
from common.compute import compute_with
from common.context import Context, UserEvents
from common.features import Featurizer
from common.item_index import ItemIndex
from common.messages import Label
from common.policy import build_policy
from common.policy.encoder_decoder import EncoderDecoder
from common.settings import PolicySettings, Settings, TrainerSettings
from deploy.local.leash import tie
from rollout.beam_search import Beams, beam_search
from trainer.step import SftSample, TrainingStep

Say = Callable[[str], None]
FASTER, FASTER_PRUNED, OVER_FLOOR = 60.0, 100.0, 2.0
DAY_MS = 86_400_000
POPULARITY = 1.1
"""Zipf's exponent of the made-up items."""


class Scale(BaseModel):
    """The benchmark's size."""

    policy: PolicySettings = PolicySettings(
        d_model=128,
        heads=4,
        encoder_layers=2,
        decoder_layers=2,
        ffn=256,
        levels=3,
        codes=8192,
        short_length=20,
        positive_length=384,
    )
    items: int = 50_000
    topics: int = 200
    width: int = 512
    users: tuple[int, ...] = (1, 8)
    training_steps: int = 300
    runs: int = 3


def run(data: Path, on_progress: Say) -> BenchResult:  # noqa: ARG001 - everything is synthetic
    """Both weights, one user and eight; takes about ten minutes."""
    return compare(Scale(), on_progress)


def compare(scale: Scale, on_progress: Say) -> BenchResult:
    """The benchmark at any scale. Both sides compute as the processes of the loop do, but with all threads."""
    compute_with(torch.get_num_threads())
    world = World(scale)
    found: dict[str, dict[str, Any]] = {}
    given = os.getpid(), torch.get_num_threads()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, given) as alone:
        for weights in ("random", "trained"):
            policy = build_policy(scale.policy, seed=0)
            assert isinstance(policy, EncoderDecoder)
            if weights == "trained":
                on_progress(f"training for {scale.training_steps} steps")
                train(policy, world)
            policy.eval()
            for users in scale.users:
                on_progress(f"{weights} weights, {users} at a time")
                found[f"{weights}, {users}"] = _measured(policy, world, users, alone)
    main = found[f"random, {scale.users[0]}"]
    return BenchResult(
        name="rollout",
        value=main["ours"],
        unit="seconds",
        rival=main["rival"],
        ratio=main["ratio"],
        spread=main["spread"],
        floor=Floor(value=main["floor"], what="operations at the measured product rate, and log-softmaxes at theirs"),
        details={"cases": found, "claims": claims(found), "scale": scale.model_dump(mode="json")},
    )


def claims(found: dict[str, dict[str, Any]]) -> list[Claim]:
    """What the cases come to."""
    trained = {name: one for name, one in found.items() if name.startswith("trained")}

    def claim(text: str, figure: str, holds: Callable[[float], bool], cases: dict[str, dict[str, Any]] = found) -> Claim:
        figures = {name: case[figure] for name, case in cases.items()}
        return Claim(claim=text, holds=all(map(holds, figures.values())), figures=figures)

    def faster(beside: str, ratio: str) -> list[Claim]:
        pruned = f"at least {FASTER_PRUNED:g} times with trained weights, by exact pruning{beside}"
        return [
            claim(f"at least {FASTER:g} times faster{beside}", ratio, lambda times: times >= FASTER),
            claim(pruned, ratio, lambda times: times >= FASTER_PRUNED, trained),
        ]

    return [
        *faster("", "ratio"),
        *faster(", the rival as it comes", "ratio_as_it_comes"),
        claim("scores equal the plain search's to 1e-5", "score_error", lambda error: error <= 1e-5),
        claim("the beams are the rival's, but for ties", "overlap", lambda share: share >= 0.99),
        claim(f"within {OVER_FLOOR:g} times the floor", "over_floor", lambda times: times <= OVER_FLOOR),
    ]


class World:
    """A catalogue whose items' first code is their topic, and users who see the items of a few topics."""

    def __init__(self, scale: Scale) -> None:
        self.scale, self.rng = scale, np.random.default_rng(0)
        levels, codes = scale.policy.levels, scale.policy.codes
        self.topic = self.rng.integers(0, scale.topics, scale.items)
        others = self.rng.integers(0, codes, (scale.items, levels - 1))
        sids = np.concatenate((self.topic[:, None] % codes, others), 1)
        zeros = np.zeros(scale.items, np.int64)
        self.index = ItemIndex.build(
            1,
            "synthetic",
            codes,
            item_ids=np.arange(scale.items),
            sids=sids,
            author=zeros,
            tags=zeros[:, None] - 1,
            music=zeros,
            duration_ms=zeros + 20_000,
            publish_ms=zeros,
            popularity=zeros.astype(np.float32),
            vectors=np.zeros((scale.items, 1), np.float32),
        )
        sizes = np.bincount(self.topic, minlength=scale.topics)
        self.of_topic = np.split(self.topic.argsort(kind="stable"), sizes.cumsum()[:-1])
        self.topics = np.flatnonzero(sizes)

    def context(self, events: int, targets: int = 0) -> SftSample:
        """A user with that many long views, and the semantic IDs of those that follow."""
        chosen = self.rng.choice(self.topics, 3, replace=False)
        parts = [self._some(self.of_topic[topic], events + targets) for topic in chosen]
        items = np.stack(parts, 1)[np.arange(events + targets), self.rng.integers(0, 3, events + targets)]
        past = items[:events]
        times = DAY_MS + 60_000 * np.arange(events)
        like = np.full(events, int(Label.LONG_VIEW))
        seen = UserEvents(past, times, np.full(events, 15_000), np.full(events, 20_000), like)
        user = int(self.rng.integers(0, 1000))
        return SftSample(Context(user, 3 * DAY_MS, events=seen), self.index.sids[items[events:]].astype(np.int64))

    def _some(self, items: np.ndarray, count: int) -> np.ndarray:
        """Draws by Zipf's law."""
        weight = (1.0 + np.arange(len(items))) ** -POPULARITY
        return np.asarray(self.rng.choice(items, count, p=weight / weight.sum()))


def train(policy: EncoderDecoder, world: World) -> None:
    """A little, so that probabilities are as uneven as they are in use."""
    rates = TrainerSettings(learning_rate=3e-3, sparse_learning_rate=3e-2)
    step = TrainingStep(policy, Featurizer(policy.settings, world.index), Settings(trainer=rates))
    for k in range(1, world.scale.training_steps + 1):
        step.run([world.context(40, targets=6) for _ in range(16)], [], k)


def floor_seconds(scale: Scale, users: int) -> float:
    """Lower bound of an unpruned search: its operations, then reading all logits for their normalisers."""
    policy, width = scale.policy, scale.width
    d, places = policy.d_model, 1 + policy.short_length + policy.positive_length
    rows = 1 + width * (policy.levels - 1)
    encoder = policy.encoder_layers * places * (8 * d * d + 4 * d * policy.ffn + 4 * places * d)
    context = policy.decoder_layers * places * 4 * d * d
    decoder = policy.decoder_layers * rows * (12 * d * d + 4 * d * policy.ffn + 4 * places * d)
    operations = users * (encoder + context + decoder + 2 * rows * d * policy.codes)
    logits = torch.randn(width, policy.codes)
    normaliser = min(seconds(lambda: logits.log_softmax(-1)) for _ in range(6)) / width
    return operations / product_rate(width, d, policy.codes) + users * rows * normaliser


def _measured(policy: EncoderDecoder, world: World, users: int, alone: Executor) -> dict[str, Any]:
    scale = world.scale
    contexts = [world.context(policy.settings.positive_length + 20).context for _ in range(users)]
    featurizer = Featurizer(policy.settings, world.index)
    embeddings, mask = encoder_inputs(policy, featurizer(contexts))

    def ours(prune: bool | None = None) -> Beams:
        with torch.no_grad():
            return beam_search(policy, policy.encode(featurizer(contexts)), scale.width, prune=prune)

    def theirs(model: LevelledT5) -> tuple[Tensor, Tensor]:
        return generate(model, embeddings, mask, scale.width)

    joint, levelled = (as_t5(policy, joint) for joint in (True, False))
    found, expected = ours(), ours(prune=False)
    kept: list[tuple[Tensor, Tensor]] = []
    timed: Race = race(ours, lambda: kept.append(theirs(joint)), scale.runs, warm_up=False)
    codes, scores = kept[-1]
    plain = [seconds(lambda: ours(prune=False)) for _ in range(scale.runs)]
    apart = seconds(lambda: theirs(levelled))
    alone.submit(_load, policy, embeddings, mask, scale.width).result()
    fresh = race(ours, lambda: alone.submit(_search).result(), scale.runs)
    floor = floor_seconds(scale, users)
    return {
        "ours": timed.value,
        "rival": timed.rival_value,
        "ratio": timed.ratio,
        "spread": timed.spread,
        "rival_as_it_comes": fresh.rival_value,
        "ratio_as_it_comes": fresh.ratio,
        "spread_as_it_comes": fresh.spread,
        "seconds": {
            "ours": timed.ours,
            "rival": timed.rival,
            "ours beside the rival as it comes": fresh.ours,
            "rival as it comes": fresh.rival,
            "rival by level": apart,
            "plain": plain,
        },
        "ratio_to_rival_by_level": apart / timed.value,
        "plain_over_ours": float(np.median(plain)) / timed.value,
        "floor": floor,
        "over_floor": timed.value / floor,
        "score_error": float((found.scores - expected.scores).abs().max()),
        "rival_score_error": float((found.scores - scores).abs().max()),
        "overlap": overlap(found.codes, codes),
    }


_rival: dict[str, Callable[[], object]] = {}
"""Of the process that computes as Python comes."""


def _begin(parent: int, threads: int) -> None:
    tie(parent)
    torch.set_num_threads(threads)


def _load(policy: EncoderDecoder, embeddings: Tensor, mask: Tensor, width: int) -> None:
    model = as_t5(policy, joint=True)
    _rival["search"] = lambda: generate(model, embeddings, mask, width)


def _search() -> None:
    _rival["search"]()


def overlap(ours: Tensor, theirs: Tensor) -> float:
    """Share of our semantic IDs (R, W, K) that the other search has found, too."""
    shares = []
    for one, other in zip(ours.tolist(), theirs.tolist(), strict=True):
        shares.append(len(set(map(tuple, one)) & set(map(tuple, other))) / len(one))
    return float(np.mean(shares))
