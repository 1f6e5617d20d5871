"""Requests -> lists: swaps to the newest parameters and items, generates for a batch, leaves out what users have seen.

consumes:     parameters (Redis), item indexes (disk), users' histories (disk), batches of requests
produces:     lists of items
waits for:    nothing; newer parameters and indexes are loaded beside it
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.context import Context
from common.endpoints import Endpoints
from common.item_index import IndexFollower, ItemIndex
from common.lookout import Lookout
from common.messages import RecommendRequest
from common.metrics import RECOMMEND_INDEX_VERSION, RECOMMEND_PARAMETER_VERSION
from common.parameter_channel import ChannelError, Follower
from common.policy import Policy, build_policy, load_weights
from common.settings import Settings
from rollout.engine import Candidates, GenerationEngine
from rollout.recommend.pools import Ranked
from rollout.recommend.sessions import Histories

LOOK_EVERY_S = 0.5
READER = "recommend"
log = logging.getLogger(__name__)


class Recommender:
    """Makes lists with the newest parameters and items held. Of one thread; not ready before `ready` says so."""

    def __init__(self, folder: Path, endpoints: Endpoints, settings: Settings) -> None:
        self.settings = settings
        self.version = -1
        """Parameter version held; -1 before there is one."""
        self._policy: Policy | None = None
        self._engine: GenerationEngine | None = None
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
            try:
                self._follower.acknowledge(self.version)
            except ChannelError as error:
                log.warning("version %d could not be acknowledged: %s", self.version, error)
        newer_items = self._indexes.poll()
        if self._policy is not None and (loaded is not None or newer_items or self._engine is None):
            self._engine = GenerationEngine(self._policy, self.index, self.settings.recommend.beam, constrained=True)
            RECOMMEND_INDEX_VERSION.set(self.index.version)
        return self._engine is not None

    def warm_up(self) -> None:
        """Make a list for nobody, so that the first user does not wait for what is prepared at first use."""
        assert self._engine is not None, "warmed up before there were parameters"
        self._engine.generate([Context(0, int(time.time() * 1000))])

    def recommend(self, requests: list[RecommendRequest], histories: Histories) -> list[tuple[Ranked, Context]]:
        """For each request all generated items that its user has not been shown and that it does not exclude, best first;
        and what they were generated for."""
        assert self._engine is not None, "asked before there were parameters"
        now_ms = int(time.time() * 1000)
        contexts = [
            histories.context(one.user_id, now_ms if one.time_ms is None else one.time_ms, one.tab) for one in requests
        ]
        found = self._engine.generate(contexts)
        return [
            (self._ranked(made, np.concatenate((context.events.item_id, np.asarray(one.exclude, np.int64)))), context)
            for one, context, made in zip(requests, contexts, found, strict=True)
        ]

    def popular(self, count: int, exclude: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The most popular items but some."""
        index = self.index
        order = index.popularity.argsort(kind="stable")[::-1][: count + np.size(exclude)]
        items = index.item_ids[order]
        return items[~np.isin(items, exclude)][:count]

    def close(self) -> None:
        """Leave the parameter channel, stop following the index."""
        self._opened.close()

    def _ranked(self, made: Candidates, exclude: npt.NDArray[np.int64]) -> Ranked:
        assert self._engine is not None
        items, row = self._engine.index.items_of(made.codes)
        ranked = Ranked(items, made.log_probs[row], self.version, self._engine.index.version, time.monotonic())
        return ranked.without(exclude)

    def _look(self, than: int) -> tuple[int, Policy] | None:
        try:
            newer = self._follower.fetch_newer(than)
        except ChannelError as error:
            log.warning("stays at version %d: %s", than, error)
            return None
        if newer is None:
            return None
        version, blob = newer
        policy = build_policy(self.settings.policy).float()
        load_weights(policy, blob)
        return version, policy
