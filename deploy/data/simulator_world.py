"""The simulated world: topics, items, users and what a user truly thinks of an item.

Shape legend: N items, U users, D log days, W = 64 vector width. Item k is row k of every item array; users likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, ndtr

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Rows = Ints | int
Generator = np.random.Generator

WIDTH = 64
TREE = (16, 16, 8)
"""Children per level of the topic tree."""
PLAY_NOISE = 0.5
OFFSETS = {"like": -3.0, "follow": -4.5, "comment": -4.0, "forward": -4.2}
"""P(label) = sigmoid(affinity + offset); viral items lose a logit on like and follow."""
DISLIKE_OFFSET = -3.5
REWARD_WEIGHTS = {"play": 0.4, "like": 0.3, "follow": 0.15, "comment": 0.15}
"""The true reward: "play" is playing longer than the median of the item's duration bucket."""
DURATION_S = (3.0, 600.0)
BUCKETS = 10
TRUTH = "truth"


@dataclass(frozen=True)
class World:
    """Everything that decides what users do. Arrays are saved in ``LOG/truth/`` and never shown to a model."""

    vectors: Floats  # (N, W) topic content with item noise; also the log's content vectors
    topic: Ints  # (N, 3) nodes of the topic tree: level 1, level 2 and leaf, each numbered through
    author: Ints  # (N,)
    duration_s: Floats  # (N,)
    quality: Floats  # (N,)
    viral: npt.NDArray[np.bool_]  # (N,)
    birth_day: Floats  # (N,) log day (and fraction) from which the item can be shown; negative: before the log
    leaf_vectors: Floats  # (leaves, W)
    group_taste: Floats  # (groups, 16) each demographic group's preference for the level-1 topics, rows sum to 1
    group: Ints  # (U,) demographic group of each user: age * 2 + gender
    activity: Floats  # (U,) expected requests over the simulated days
    theta: Floats  # (D + 1, U, W) interest at the start of each log day; the last one at the end of the log
    play_median_s: Floats  # (BUCKETS,) median play time of the log's impressions by duration bucket

    @staticmethod
    def load(folder: Path) -> World:
        """The world behind a simulated session log.

        Raises:
            ValueError: the log has no truth.
        """
        missing = [f.name for f in fields(World) if not (folder / TRUTH / f"{f.name}.npy").is_file()]
        if missing:
            raise ValueError(f"{folder} is not a simulated session log: missing {TRUTH}/{missing[0]}.npy")
        return World(**{f.name: np.load(folder / TRUTH / f"{f.name}.npy", allow_pickle=False) for f in fields(World)})

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """What `load` reads: name under the log folder -> array."""
        return {f"{TRUTH}/{f.name}": getattr(self, f.name) for f in fields(self)}

    def affinity(self, user_rows: Rows, item_rows: Rows, day: int | None = None) -> Floats:
        """4 cos(theta, x) - 1 + 0.4 quality for users x items (rows broadcast), interests as of the start of a log day.

        ``day`` None means the end of the log. A user's fatigue with a topic just seen is left out: it belongs to a
        moment, not to the pair.
        """
        theta = normalised(self.theta[-1 if day is None else day])
        match = np.einsum("...w,...w->...", theta[user_rows], normalised(self.vectors)[item_rows])
        return np.asarray(4 * match - 1 + 0.4 * self.quality[item_rows], np.float32)

    def expected_labels(self, user_rows: Rows, item_rows: Rows, day: int | None = None) -> dict[str, Floats]:
        """Probability of each part of the reward, in closed form; rows broadcast."""
        affinity = self.affinity(user_rows, item_rows, day)
        viral = self.viral[item_rows].astype(np.float32)
        rates = {"play": self._long_play(affinity, item_rows)}
        for name in ("like", "follow", "comment"):
            rates[name] = np.asarray(expit(affinity + label_offset(name, viral)), np.float32)
        return rates

    def expected_reward(self, user_rows: Rows, item_rows: Rows, day: int | None = None) -> Floats:
        """True expected reward in 0..1 of users x items (rows broadcast): the weighted mean of `expected_labels`."""
        rates = self.expected_labels(user_rows, item_rows, day)
        return np.asarray(sum(REWARD_WEIGHTS[name] * rates[name] for name in REWARD_WEIGHTS), np.float32)

    def _long_play(self, affinity: Floats, item_rows: Rows) -> Floats:
        """P(1.2 sigmoid(m + noise) d > median of d's bucket) = Phi((m - logit(median / 1.2 d)) / noise sd)."""
        duration = self.duration_s[item_rows]
        share = np.clip(self.play_median_s[duration_bucket(duration)] / (1.2 * duration), 1e-6, 1 - 1e-6)
        mean = play_logit(affinity, duration, self.viral[item_rows])
        return np.asarray(ndtr((mean - logit(share)) / PLAY_NOISE), np.float32)

    def with_truth(self, theta: Floats, play_median_s: Floats) -> World:
        """The same world with what the log's run has added."""
        return replace(self, theta=theta, play_median_s=play_median_s)


def label_offset(name: str, viral: Floats) -> Floats:
    """The logit that a label's probability adds to the affinity."""
    return OFFSETS[name] - (viral if name in {"like", "follow"} else np.zeros_like(viral))


def play_logit(affinity: Floats, duration_s: Floats, viral: npt.NDArray[np.bool_]) -> Floats:
    """Mean logit of the play ratio / 1.2: affinity - 0.3 ln(d / 20 s), viral items + 0.5."""
    return np.asarray(affinity - 0.3 * np.log(duration_s / 20) + 0.5 * viral, np.float32)


def duration_bucket(duration_s: Floats) -> Ints:
    """floor(log2 d), d in seconds: 3 s -> 1, 16 s -> 4, 600 s -> 9 (OneRec-V2 technical report, duration-aware reward)."""
    return np.clip(np.floor(np.log2(duration_s)), 0, BUCKETS - 1).astype(np.int64)


def normalised(vectors: Floats) -> Floats:
    """Rows of length 1."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12), np.float32)


def new_world(items: int, users: int, requests_per_user: float, first_birth: float, last_birth: float, seed: int) -> World:
    """Draw items and users; births are uniform over the given log days. Interests and medians come from the run."""
    rng = np.random.default_rng([seed, 0])
    mu = [rng.standard_normal((int(np.prod(TREE[: level + 1])), WIDTH)) for level in range(3)]
    leaf = np.arange(len(mu[2]))
    leaf_vectors = mu[0][leaf // (TREE[1] * TREE[2])] + 0.5 * mu[1][leaf // TREE[2]] + 0.25 * mu[2]
    item_leaf = rng.integers(0, len(leaf), items)
    vectors = leaf_vectors[item_leaf] + 0.1 * rng.standard_normal((items, WIDTH))
    topic = np.stack([item_leaf // (TREE[1] * TREE[2]), item_leaf // TREE[2], item_leaf], 1).astype(np.int64)
    log_duration = rng.normal(np.log(20), 0.6, len(leaf))[item_leaf] + 0.4 * rng.standard_normal(items)
    return World(
        vectors=vectors.astype(np.float32),
        topic=topic,
        author=_authors(topic[:, 0], rng),
        duration_s=np.exp(log_duration).clip(*DURATION_S).astype(np.float32),
        quality=rng.standard_normal(items).astype(np.float32),
        viral=rng.random(items) < 0.1,
        birth_day=rng.uniform(first_birth, last_birth, items).astype(np.float32),
        leaf_vectors=leaf_vectors.astype(np.float32),
        group_taste=rng.dirichlet(np.full(TREE[0], 0.5), 12).astype(np.float32),
        group=rng.integers(0, 12, users),
        activity=_activity(users, requests_per_user, rng),
        theta=np.zeros((0, users, WIDTH), np.float32),
        play_median_s=np.zeros(BUCKETS, np.float32),
    )


def _authors(level1: Ints, rng: Generator) -> Ints:
    """An author writes on one level-1 topic; within it authors are as frequent as Zipf(1.1) by rank. Ids from 1."""
    per_topic = max(1, len(level1) // (8 * TREE[0]))
    weight = 1.0 / np.arange(1, per_topic + 1) ** 1.1
    rank = rng.choice(per_topic, len(level1), p=weight / weight.sum())
    return np.asarray(1 + level1 * per_topic + rank, np.int64)


def _activity(users: int, mean: float, rng: Generator) -> Floats:
    """Zipf-like expected request counts between 2/7 and 15/7 of the mean (20..150 at 70), in random order."""
    share = 1.0 / np.arange(1, users + 1) ** 0.5
    for _ in range(50):
        share = np.clip(share / share.mean(), 2 / 7, 15 / 7)
    return np.asarray(rng.permutation(mean * share), np.float32)


class Interests:
    """Users' drifting interests: theta is a Dirichlet(0.5) mixture of 3 to 5 leaf topics, half of them drawn by taste."""

    DRIFT = 0.02
    """Probability, per request, that one topic is replaced."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._rng = np.random.default_rng([seed, 1])
        users = len(world.group)
        count = self._rng.integers(3, 6, users)
        mass = self._rng.gamma(0.5, size=(users, 5)) * (np.arange(5) < count[:, None]) + 1e-9
        self._weight = mass / mass.sum(1, keepdims=True)
        self._leaf = np.stack([self._draw(np.arange(users)) for _ in range(5)], 1)
        self._count = count
        self.theta = np.zeros((users, WIDTH), np.float32)
        self._refresh(np.arange(users))

    def drift(self, users: Ints) -> None:
        """Pass one request of each of these users."""
        moved = users[self._rng.random(len(users)) < self.DRIFT]
        if len(moved):
            place = self._rng.integers(0, self._count[moved])
            self._leaf[moved, place] = self._draw(moved)
            self._refresh(moved)

    def _draw(self, users: Ints) -> Ints:
        """One leaf topic per user: half the time by the taste of the user's group, half uniform."""
        leaves = np.prod(TREE[1:])
        cumulative = self._world.group_taste[self._world.group[users]].cumsum(1)
        by_taste = (cumulative < self._rng.random((len(users), 1)) * cumulative[:, -1:]).sum(1)
        level1 = np.where(self._rng.random(len(users)) < 0.5, by_taste, self._rng.integers(0, TREE[0], len(users)))
        return np.asarray(level1 * leaves + self._rng.integers(0, leaves, len(users)), np.int64)

    def _refresh(self, users: Ints) -> None:
        parts = self._world.leaf_vectors[self._leaf[users]]
        self.theta[users] = np.einsum("uk,ukw->uw", self._weight[users], parts)
