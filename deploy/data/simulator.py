"""A simulated log with known true rewards: drifting users meet a noisy popularity-and-affinity cascade.

The first quarter of the simulated days becomes the users' initial histories (with times); the log begins after them and
keeps the rest, so 14 simulated days give 3 days of history and log days 0..10. Impressions are answered with the
user's fatigue (topics among the last ten impressions before the request); `World.expected_reward` leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from common.content import Content
from common.messages import Events, Impression, Item, Label, Session, User
from common.session_log import DAY_MS, LogManifest, LogWriter
from common.settings import Settings
from deploy.data.simulator_cascade import Exposures, run_cascade
from deploy.data.simulator_world import BUCKETS, TREE, WIDTH, World, duration_bucket, new_world, normalised

DAY0_MS = 19_723 * DAY_MS
"""Log day 0: Monday 2024-01-01, UTC."""
CATALOGUE_AGE_DAYS = 30
MAX_DURATION_R2 = 0.2
VIEW_NOISE = 0.1
MIN_MATCH_R2 = 0.3
STATIC_FIELDS = ["age", "gender", "activity"]


def simulate(settings: Settings, out: Path, on_progress: Callable[[str], None] = lambda _: None) -> LogManifest:
    """Simulate ``settings.simulator`` with ``settings.seed`` and write a session log with its truth at ``out``.

    Raises:
        ValueError: the place is taken, nobody comes on the first day, or the true reward would follow from an item's
            duration (R^2 >= 0.2) or not from the user-topic match (R^2 <= 0.3).
    """
    size = settings.simulator
    history_days = size.days // 4
    log_days = size.days - history_days
    world = new_world(
        size.items, size.users, size.requests_per_user, -history_days - CATALOGUE_AGE_DAYS, log_days, settings.seed
    )
    exposures, theta = run_cascade(world, -history_days, log_days, settings.seed, on_progress)
    world = world.with_truth(theta, _play_medians(world, exposures))
    by_duration, by_match = reward_r2(world, exposures)
    on_progress(f"true reward: R^2 on duration {by_duration:.2f}, on user-topic match {by_match:.2f}")
    check_r2(by_duration, by_match)
    log_from = _first_of_day0(exposures)
    writer = LogWriter(out, "simulator", Label.LONG_VIEW, STATIC_FIELDS)
    users = _users(world, exposures.rows(0, log_from))
    sessions = _sessions(exposures.rows(log_from, len(exposures)))
    content = Content.of(content_tokens(world, size.content_tokens, settings.seed))
    manifest = writer.write(_items(world), users, sessions, content, world.arrays())
    on_progress(f"wrote {manifest.sessions:,} sessions with {manifest.impressions:,} impressions to {out}")
    return manifest


def content_tokens(world: World, tokens: int, seed: int) -> np.ndarray:
    """What a frozen encoder would give of each item (N, tokens, W): noisy linear views, or the vector itself if one."""
    if tokens == 1:
        return world.vectors[:, None]
    rng = np.random.default_rng((seed, tokens))
    views = rng.normal(size=(tokens, WIDTH, WIDTH)) / WIDTH**0.5
    seen = np.einsum("nw,twv->ntv", world.vectors, views)
    return np.asarray(seen + VIEW_NOISE * rng.normal(size=seen.shape), np.float32)


def _first_of_day0(exposures: Exposures) -> int:
    """Where the log begins; day numbers count from there, so there must be a request on day 0."""
    start, end = np.searchsorted(exposures.request_ms, (0, DAY_MS))
    if start == end:
        raise ValueError("simulator.users or simulator.requests_per_user is too small: nobody came on log day 0")
    return int(start)


def check_r2(by_duration: float, by_match: float) -> None:
    """Raises ValueError unless the reward is about the match and not about duration."""
    if not by_duration < MAX_DURATION_R2:
        raise ValueError(f"simulator: R^2(reward | duration) must be < {MAX_DURATION_R2}, got {by_duration:.3f}")
    if not by_match > MIN_MATCH_R2:
        raise ValueError(f"simulator: R^2(reward | user-topic match) must be > {MIN_MATCH_R2}, got {by_match:.3f}")


def reward_r2(world: World, exposures: Exposures) -> tuple[float, float]:
    """Share of the true reward's variance over the log's pairs that quantile bins of duration, of the match explain.

    The match is the cosine of a user's interest at the end of the log with the item's leaf topic. There are 20 bins, and
    fewer in a small catalogue, where so many would fit chance.
    """
    bins = min(max(len(world.quality) // 20, 3), 20)
    reward = world.expected_reward(exposures.user, exposures.item)
    leaf = normalised(world.leaf_vectors)[world.topic[exposures.item, 2]]
    match = np.einsum("ew,ew->e", normalised(world.theta[-1])[exposures.user], leaf)
    return _binned_r2(reward, world.duration_s[exposures.item], bins), _binned_r2(reward, match, bins)


def _binned_r2(target: np.ndarray, by: np.ndarray, bins: int) -> float:
    edges = np.quantile(by, np.arange(1, bins) / bins)
    group = np.searchsorted(edges, by)
    count = np.bincount(group, minlength=bins)
    mean = np.bincount(group, target, bins) / np.maximum(count, 1)
    return float((count * (mean - target.mean()) ** 2).sum() / max(((target - target.mean()) ** 2).sum(), 1e-12))


def _play_medians(world: World, exposures: Exposures) -> np.ndarray:
    """Median play time (s) per duration bucket over all impressions; half the shortest duration where there is none."""
    bucket = duration_bucket(world.duration_s[exposures.item])
    medians = 2.0 ** np.arange(BUCKETS) / 2
    for b in np.unique(bucket):
        medians[b] = np.median(exposures.play_ms[bucket == b]) / 1000
    return medians.astype(np.float32)


def _items(world: World) -> Iterator[Item]:
    for k, (level1, level2, leaf) in enumerate(world.topic.tolist()):
        names = (
            f"topic {level1}",
            f"topic {level1}.{level2 % TREE[1]}",
            f"topic {level1}.{level2 % TREE[1]}.{leaf % TREE[2]}",
        )
        yield Item(
            item_id=k,
            author_id=int(world.author[k]),
            tags=[1 + level1, 1 + TREE[0] + level2],
            duration_ms=round(float(world.duration_s[k]) * 1000),
            publish_ms=DAY0_MS + int(float(world.birth_day[k]) * DAY_MS),
            title=f"Video {k} about {names[-1]}",
            category=" > ".join(names),
        )


def _users(world: World, history: Exposures) -> Iterator[User]:
    order = np.argsort(history.user, kind="stable")
    bounds = np.searchsorted(history.user[order], np.arange(len(world.group) + 1))
    level = np.searchsorted(np.quantile(world.activity, (0.25, 0.5, 0.75)), world.activity)
    for user, group in enumerate(world.group.tolist()):
        rows = history.take(order[bounds[user] : bounds[user + 1]])
        yield User(
            user_id=user,
            profile={"age": group // 2, "gender": group % 2, "activity": int(level[user])},
            history=Events(
                item_id=rows.item.tolist(),
                time_ms=(DAY0_MS + rows.time_ms).tolist(),
                play_ms=rows.play_ms.tolist(),
                duration_ms=rows.duration_ms.tolist(),
                labels=rows.labels.tolist(),
            ),
        )


def _sessions(log: Exposures) -> Iterator[Session]:
    starts = np.flatnonzero(np.diff(log.request, prepend=-1)).tolist()
    columns = (log.item, DAY0_MS + log.time_ms, log.play_ms, log.duration_ms, log.labels)
    item, time_ms, play_ms, duration_ms, labels = (column.tolist() for column in columns)
    for start, end in zip(starts, [*starts[1:], len(log)], strict=True):
        yield Session(
            session_id=f"s{log.request[start]}",
            user_id=int(log.user[start]),
            time_ms=DAY0_MS + int(log.request_ms[start]),
            impressions=[
                Impression(
                    item_id=item[k], time_ms=time_ms[k], play_ms=play_ms[k], duration_ms=duration_ms[k], labels=labels[k]
                )
                for k in range(start, end)
            ],
        )
