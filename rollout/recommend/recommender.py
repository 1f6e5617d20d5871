"""Requests -> lists: swaps to the newest parameters and items, generates for a batch, leaves out what users have seen.

consumes:     parameters (Redis), item indexes and arms' own policies (disk), users' histories (disk), batches of requests
produces:     lists of items
waits for:    nothing; newer parameters and indexes are loaded beside it
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError

from common.context import Context
from common.endpoints import Endpoints
from common.item_index import IndexFollower, ItemIndex
from common.lookout import Lookout
from common.messages import RecommendRequest
from common.metrics import RECOMMEND_INDEX_VERSION, RECOMMEND_PARAMETER_VERSION
from common.parameter_channel import ChannelError, Follower
from common.policy import Policy, bare_policy, take_over
from common.settings import RecommendArm, Settings
from common.tensor_file import Parameters
from rollout.engine import Candidates, GenerationEngine
from rollout.recommend.pools import Ranked
from rollout.recommend.sessions import Histories

LOOK_EVERY_S = 0.5
READER = f"recommend-{platform.node()}"
"""Each machine or pod has one endpoint, of which the publisher waits for every one."""
log = logging.getLogger(__name__)


class Recommender:
    """Makes lists with the newest parameters and items held. Of one thread; not ready before `ready` says so."""

    def __init__(self, folder: Path, endpoints: Endpoints, settings: Settings) -> None:
        self.settings = settings
        self.version = -1
        """Parameter version held; -1 before there is one."""
        self._policy: Policy | None = None
        self._kept = {arm.weights: self._read(folder / arm.weights) for arm in settings.recommend.arms if arm.weights}
        """Policies that arms keep, by their files."""
        self._engines: dict[tuple[str, int], GenerationEngine] = {}
        """By the file of their policy (empty: the newest) and the width of their beam; arms may share one."""
        redis = settings.redis
        with ExitStack() as opened:
            self._indexes = opened.enter_context(closing(IndexFollower(folder / "index")))
            url = redis.url.get_secret_value()
            follower = Follower(url, endpoints.run, READER, redis.timeout_s, folder, settings.recommend.precision)
            self._follower = opened.enter_context(closing(follower))
            self._lookout = opened.enter_context(closing(Lookout[tuple[int, Policy]]("parameter-loader")))
            self._opened = opened.pop_all()

    @property
    def index(self) -> ItemIndex:
        """The item index in use."""
        return self._indexes.current

    def swap(self) -> bool:
        """Take up newer parameters and items if they are there; whether lists can be made."""
        loaded = self._lookout.poll(partial(self._look, self.version), LOOK_EVERY_S)
        if loaded is not None:
            self.version, self._policy = loaded
            RECOMMEND_PARAMETER_VERSION.set(self.version)
            log.info("takes up parameter version %d", self.version, extra={"version": self.version})
            try:
                self._follower.acknowledge(self.version)
            except ChannelError as error:
                log.warning("version %d could not be acknowledged: %s", self.version, error)
        newer_items = self._indexes.poll()
        if self._policy is not None and (loaded is not None or newer_items or not self._engines):
            self._build(self._policy, new_items=newer_items or not self._engines)
        return bool(self._engines)

    def warm_up(self) -> None:
        """Make a list for nobody, so that the first user does not wait for what is prepared at first use."""
        assert self._engines, "warmed up before there were parameters"
        for engine in self._engines.values():
            engine.generate([Context(0, int(time.time() * 1000))])

    def recommend(
        self, asked: Sequence[tuple[RecommendRequest, RecommendArm]], histories: Histories
    ) -> list[tuple[Ranked, Context]]:
        """For each request all generated items that its user has not been shown and that it does not exclude, best first;
        and what they were generated for. Requests of arms with one engine share a search."""
        assert self._engines, "asked before there were parameters"
        now_ms = int(time.time() * 1000)
        contexts = [
            histories.context(one.user_id, now_ms if one.time_ms is None else one.time_ms, one.tab) for one, _ in asked
        ]
        found: dict[int, Ranked] = {}
        for key, engine in self._engines.items():
            where = [k for k, (_, arm) in enumerate(asked) if self._key(arm) == key]
            made = engine.generate([contexts[k] for k in where]) if where else []
            for k, candidates in zip(where, made, strict=True):
                exclude = np.concatenate((contexts[k].events.item_id, np.asarray(asked[k][0].exclude, np.int64)))
                found[k] = self._ranked(candidates, None if key[0] else self.version).without(exclude)
        return [(found[k], context) for k, context in enumerate(contexts)]

    def popular(self, count: int, exclude: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The most popular items but some."""
        items = self.index.by_popularity[: count + np.size(exclude)]
        return items[~np.isin(items, exclude)][:count]

    def close(self) -> None:
        """Leave the parameter channel, stop following the index."""
        self._opened.close()

    def _key(self, arm: RecommendArm) -> tuple[str, int]:
        return arm.weights, self.settings.recommend.beam if arm.beam is None else arm.beam

    def _build(self, newest: Policy, *, new_items: bool) -> None:
        """Engines with what was taken up. For newer parameters they stay, with the histories that they have compressed."""
        for weights, beam in {self._key(arm) for arm in self.settings.recommend.arms}:
            if new_items:
                policy = self._kept[weights] if weights else newest
                self._engines[weights, beam] = GenerationEngine(policy, self.index, beam, constrained=True)
            elif not weights:
                self._engines[weights, beam].policy = newest.eval()
        self.index.by_popularity  # noqa: B018 - sorted here, since the thread that answers must not wait for it
        RECOMMEND_INDEX_VERSION.set(self.index.version)

    def _ranked(self, made: Candidates, version: int | None) -> Ranked:
        items, row = self.index.items_of(made.codes)
        log_probs = made.log_probs[row]
        return Ranked(items, log_probs, log_probs.sum(1), version, self.index.version, time.monotonic())

    def _read(self, path: Path) -> Policy:
        """A policy from a file; ValueError if it is none of this shape."""
        try:
            return self._policy_of(path.read_bytes())
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(
                f"recommend.arms: weights must be a policy file of the run's shape, got {path}: {error}"
            ) from None

    def _policy_of(self, blob: Parameters) -> Policy:
        policy = bare_policy(self.settings.policy).float()
        take_over(policy, blob)
        return policy

    def _look(self, than: int) -> tuple[int, Policy] | None:
        try:
            newer = self._follower.fetch_newer(than)
        except ChannelError as error:
            log.warning("stays at version %d: %s", than, error)
            return None
        if newer is None:
            return None
        version, blob = newer
        return version, self._policy_of(blob)
