"""The simulated logging policy: retrieval of popular and of fitting items, a noisy ranking, and the users' answers.

Days run one after the other; within a day, round k serves the k-th request of every user who has one.
Shape legend: R requests of a round, C = 200 candidates, S = 10 places of a list, N items, U users, W vector width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from common.messages import Label
from common.session_log import DAY_MS
from deploy.data.simulator_world import (
    DISLIKE_OFFSET,
    PLAY_NOISE,
    TREE,
    Floats,
    Interests,
    Ints,
    World,
    label_offset,
    normalised,
    play_logit,
)

HALF = 100
PLACES = 10
FEWEST_PLACES = 5
FATIGUE = 0.3
RECENT = 10
"""A user's last impressions, of whose topics they are tired."""
SEEN_PENALTY = 20.0
POPULARITY_KEPT = 0.7
"""What a day leaves of the popularity gained before."""
LABEL_OF = {"like": Label.LIKE, "follow": Label.FOLLOW, "comment": Label.COMMENT, "forward": Label.FORWARD}


@dataclass(frozen=True)
class Exposures:
    """Impressions as columns of one length, by request in time order; times in ms from log day 0."""

    request: Ints
    request_ms: Ints
    user: Ints
    item: Ints
    time_ms: Ints
    play_ms: Ints
    duration_ms: Ints
    labels: Ints

    def __len__(self) -> int:
        return len(self.item)

    def take(self, rows: Ints) -> Exposures:
        """The impressions at positions."""
        return Exposures(*(getattr(self, f.name)[rows] for f in fields(self)))

    def rows(self, start: int, end: int) -> Exposures:
        """The impressions ``start..end-1``."""
        return self.take(np.arange(start, end))


def run_cascade(
    world: World, first_day: int, last_day: int, seed: int, on_progress: Callable[[str], None]
) -> tuple[Exposures, Floats]:
    """Simulate the days ``first_day..last_day - 1``; log day 0 is day 0.

    Returns the impressions, and users' interests at the start of every day from 0 on and at the end: (D + 1, U, W).
    """
    cascade = _Cascade(world, seed)
    counts = cascade.rng.poisson(
        world.activity[:, None] / (last_day - first_day), (len(world.activity), last_day - first_day)
    )
    rounds: list[Exposures] = []
    theta: list[Floats] = []
    for day in range(first_day, last_day):
        if day >= 0:
            theta.append(cascade.interests.theta.copy())
        rounds.extend(cascade.day(day, counts[:, day - first_day]))
        on_progress(f"simulated day {day - first_day + 1} of {last_day - first_day}")
    theta.append(cascade.interests.theta.copy())
    return _in_time_order(rounds), np.stack(theta)


def answers(world: World, item: Ints, affinity: Floats, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """What users do with items (any shape) that they have an affinity to: play times (ms) and labels.

    Play ratio 1.2 sigmoid(logit + N(0, 0.5)); click: 3 s played; long view: all of a video of up to 18 s, or 18 s.
    """
    duration, viral = world.duration_s[item], world.viral[item]
    noise = PLAY_NOISE * rng.standard_normal(item.shape)
    play = 1.2 * expit(play_logit(affinity, duration, viral) + noise) * duration
    labels = np.where(play >= 3, int(Label.CLICK), 0)
    labels |= np.where((play >= 18) | (play >= duration), int(Label.LONG_VIEW), 0)
    for name, label in LABEL_OF.items():
        chance = expit(affinity + label_offset(name, viral.astype(np.float32)))
        labels |= np.where(rng.random(item.shape) < chance, int(label), 0)
    labels |= np.where(rng.random(item.shape) < expit(-affinity + DISLIKE_OFFSET), int(Label.DISLIKE), 0)
    return np.rint(play * 1000).astype(np.int64), labels.astype(np.int64)


def _in_time_order(rounds: list[Exposures]) -> Exposures:
    columns = {f.name: np.concatenate([getattr(part, f.name) for part in rounds]) for f in fields(Exposures)}
    order = np.lexsort((columns["time_ms"], columns["user"], columns["request_ms"]))
    ordered = Exposures(**{name: column[order] for name, column in columns.items()})
    first = np.diff(ordered.request, prepend=-1) != 0
    return Exposures(**{f.name: getattr(ordered, f.name) for f in fields(Exposures)} | {"request": np.cumsum(first) - 1})


class _Cascade:
    """The state of the simulated service and of its users between requests."""

    def __init__(self, world: World, seed: int) -> None:
        users, items = len(world.group), len(world.quality)
        self.world = world
        self.rng = np.random.default_rng([seed, 2])
        self.interests = Interests(world, seed)
        self.unit_vectors = normalised(world.vectors)
        self.popularity = np.exp(world.quality).astype(np.float64)
        self.seen = np.zeros((users, items), np.bool_)
        self.recent = np.full((users, RECENT), -1, np.int64)
        self.busy_until = np.full(users, -(2**53), np.int64)
        self.requests = 0

    def day(self, day: int, counts: Ints) -> Iterator[Exposures]:
        """All requests of a day: ``counts`` (U,) per user at uniform times."""
        alive = np.flatnonzero(self.world.birth_day <= day)
        rounds = int(counts.max())
        times = self.rng.random((len(counts), rounds))
        times[np.arange(rounds) >= counts[:, None]] = 2.0
        times.sort(1)
        fitting = self._fitting(counts, rounds, alive)
        popular_mass = self.popularity[alive].cumsum()
        for k in range(rounds):
            users = np.flatnonzero(counts > k)
            popular = alive[_sample(popular_mass, self.rng.random((len(users), HALF)))]
            candidates = np.concatenate([popular, fitting[users, k]], 1)
            yield self._round(users, (day * DAY_MS + times[users, k] * DAY_MS).astype(np.int64), candidates)
        self.popularity = np.exp(self.world.quality) + POPULARITY_KEPT * (self.popularity - np.exp(self.world.quality))

    def _fitting(self, counts: Ints, rounds: int, alive: Ints) -> Ints:
        """(U, rounds, HALF) draws from softmax(affinity), as the best under Gumbel noise, by the morning's interests."""
        out = np.zeros((len(counts), rounds, HALF), np.int64)
        theta = normalised(self.interests.theta)
        base = (0.4 * self.world.quality[alive]).astype(np.float32)
        for start in range(0, len(counts), 256):
            mass = np.exp(4 * theta[start : start + 256] @ self.unit_vectors[alive].T + base).cumsum(1, dtype=np.float64)
            for row, user in enumerate(range(start, min(start + 256, len(counts)))):
                draws = self.rng.random((counts[user], HALF))
                out[user, : counts[user]] = alive[_sample(mass[row], draws)]
        return out

    def _round(self, users: Ints, times: Ints, candidates: Ints) -> Exposures:
        self.interests.drift(users)
        affinity = self._affinity(users, candidates)
        lists, kept = self._rank(users, candidates, affinity)
        item = np.take_along_axis(candidates, lists, 1)
        play_ms, labels = answers(self.world, item, np.take_along_axis(affinity, lists, 1), self.rng)
        start = np.maximum(times, self.busy_until[users])
        shown_after = np.cumsum(np.where(kept, play_ms + 1000, 0), 1)
        self.busy_until[users] = start + shown_after[:, -1] + 1000
        self._remember(users, item, kept, labels)
        request = np.arange(self.requests, self.requests + len(users))
        self.requests += len(users)
        wide = {
            "request": request[:, None],
            "request_ms": start[:, None],
            "user": users[:, None],
            "item": item,
            "time_ms": start[:, None] + shown_after - play_ms - 1000,
            "play_ms": play_ms,
            "duration_ms": np.rint(self.world.duration_s[item].astype(np.float64) * 1000).astype(np.int64),
            "labels": labels,
        }
        return Exposures(**{name: np.broadcast_to(values, kept.shape)[kept] for name, values in wide.items()})

    def _affinity(self, users: Ints, candidates: Ints) -> Floats:
        """(R, C): 4 cos(theta, x) - 1 + 0.4 quality - 0.3 (impressions of that level-1 topic among the last ten)."""
        theta = normalised(self.interests.theta[users])
        match = np.matmul(self.unit_vectors[candidates], theta[:, :, None])[:, :, 0]
        recent = (self.recent[users][:, :, None] == np.arange(TREE[0])).sum(1)
        tired = np.take_along_axis(recent, self.world.topic[candidates, 0], 1)
        return np.asarray(4 * match - 1 + 0.4 * self.world.quality[candidates] - FATIGUE * tired, np.float32)

    def _rank(self, users: Ints, candidates: Ints, affinity: Floats) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """The best 5 to 10 candidates by noisy affinity, each item once: positions (R, S) and which places are used."""
        score = affinity + self.rng.standard_normal(affinity.shape, np.float32)
        score -= SEEN_PENALTY * self.seen[users[:, None], candidates]
        order = np.argsort(candidates, 1, kind="stable")
        in_order = np.take_along_axis(candidates, order, 1)
        repeated = np.zeros(score.shape, np.bool_)
        np.put_along_axis(repeated, order[:, 1:], in_order[:, 1:] == in_order[:, :-1], 1)
        score[repeated] = -np.inf
        best = np.argpartition(-score, PLACES, 1)[:, :PLACES]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(score, best, 1), 1), 1)
        length = self.rng.integers(FEWEST_PLACES, PLACES + 1, (len(users), 1))
        kept = (np.arange(PLACES) < length) & np.isfinite(np.take_along_axis(score, best, 1))
        return best, kept

    def _remember(self, users: Ints, item: Ints, kept: npt.NDArray[np.bool_], labels: Ints) -> None:
        """Users recall what they saw and their newest topics; long views make an item popular."""
        self.seen[np.broadcast_to(users[:, None], item.shape)[kept], item[kept]] = True
        np.add.at(self.popularity, item[kept], (labels[kept] & int(Label.LONG_VIEW)) != 0)
        shown = np.where(kept, self.world.topic[item, 0], -1)
        both = np.concatenate([self.recent[users], shown], 1)
        newest = np.argsort(np.concatenate([np.full((len(users), RECENT), True), kept], 1), 1, kind="stable")[:, -RECENT:]
        self.recent[users] = np.take_along_axis(both, newest, 1)


def _sample(mass: npt.NDArray[Any], uniform: npt.NDArray[Any]) -> Ints:
    """Positions drawn with probabilities proportional to the steps of a cumulative mass."""
    return np.asarray(np.minimum(np.searchsorted(mass, uniform * mass[-1], side="right"), len(mass) - 1), np.int64)
