"""Decides for every request how it is answered, and runs the thread that generates.

consumes:     recommend requests
produces:     their lists
waits for:    a batch's generation, at most `ANSWER_S`
unblocked by: the generating thread
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from common.context import Context
from common.endpoints import Endpoints
from common.messages import Recommendation, RecommendRequest, RecommendResponse
from common.metrics import (
    RECOMMEND_AGE_SECONDS,
    RECOMMEND_BATCH_SECONDS,
    RECOMMEND_BATCH_USERS,
    RECOMMEND_LIST_SECONDS,
    RECOMMEND_LISTS,
    RECOMMEND_WAITING,
)
from common.settings import RecommendArm, Settings
from rollout.recommend.arms import Arms
from rollout.recommend.batches import Batches
from rollout.recommend.degradation import Degradation
from rollout.recommend.pools import Pools, Ranked
from rollout.recommend.recommender import Recommender
from rollout.recommend.selection import Selection
from rollout.recommend.sessions import Histories, SessionFollower
from rollout.recommend.shedding import Shedder

ANSWER_S = 10.0
IDLE_S = 0.1
"""How often an idle endpoint looks for newer parameters and items."""
log = logging.getLogger(__name__)


Source = Literal["generated", "cached", "popular"]


@dataclass(frozen=True, slots=True)
class _Asked:
    request: RecommendRequest
    arm: RecommendArm
    answer: asyncio.Future[tuple[Ranked, Context]]


class RecommendService:
    """Answers from one event loop; generates in one thread."""

    def __init__(
        self, folder: Path, endpoints: Endpoints, settings: Settings, on_failure: Callable[[], None] = lambda: None
    ) -> None:
        """``on_failure`` is called, in another thread, when no list will be generated any more: start the process again."""
        self._on_failure = on_failure
        given, self.settings = settings.recommend, settings
        self.arms = Arms(given.arms)
        self.degradation = {arm.name: Degradation(arm.name) for arm in given.arms}
        self.pools = Pools(given.pool_users, given.pool_s)
        self.shedder = Shedder(given.budget_ms / 1000)
        self.recommender = Recommender(folder, endpoints, settings)
        try:
            self.sessions = SessionFollower(folder, endpoints, settings)
        except BaseException:
            self.recommender.close()
            raise
        self.ready = False
        """Whether lists can be made: parameters held, histories caught up, a first list made."""
        self.failure = ""
        """Why lists are no longer generated."""
        self._selection = Selection(endpoints.reward, given.select_ms / 1000)
        self._batches = Batches[_Asked](given.batch, given.wait_ms / 1000)
        self._waiting = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to generate; to be called in the event loop that answers."""
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, args=(loop,), name="recommender", daemon=True)
        self._thread.start()

    async def answer(self, request: RecommendRequest) -> RecommendResponse:
        """A list for one request: generated if there is time for it, otherwise the user's from before, or the popular one.

        Raises:
            TimeoutError: the generating thread did not answer in time.
        """
        began, arm = time.perf_counter(), self.arms.of(request.user_id)
        source: Source = "generated"
        shown: Ranked | None
        seen = np.empty(0, np.int64)
        if self.shedder.admits(self._waiting):
            made, seen = await self._generated(request, arm)
            shown = self.pools.serve(request.user_id, made.without(self.pools.served(request.user_id)), request.count)
        else:
            left = self.pools.left(request.user_id)
            removed = left[self.recommender.index.rows(left) < 0]  # from the catalogue, since the list was made
            exclude = np.concatenate((removed, np.asarray(request.exclude, np.int64)))
            shown = self.pools.take(request.user_id, request.count, exclude, time.monotonic())
            source = "popular" if shown is None else "cached"
        told = self._told(shown, request, source, arm, seen)
        self._count(shown, source, arm, time.perf_counter() - began)
        return told

    def close(self) -> None:
        """Stop generating and following; requests in flight have been answered before."""
        self._stop.set()
        self._batches.close()
        if self._thread is not None:
            self._thread.join()
        self._selection.close()
        self.sessions.close()
        self.recommender.close()

    async def _generated(self, request: RecommendRequest, arm: RecommendArm) -> tuple[Ranked, npt.NDArray[np.int64]]:
        """A new list, in order, and the items of the user's history."""
        asked = _Asked(request, arm, asyncio.get_running_loop().create_future())
        self._waiting += 1
        RECOMMEND_WAITING.set(self._waiting)
        self._batches.put(asked)
        try:
            made, context = await asyncio.wait_for(asked.answer, ANSWER_S)
        finally:
            self._waiting -= 1
            RECOMMEND_WAITING.set(self._waiting)
        count = self.settings.recommend.selected(arm)
        if count:
            fresh = made.without(self.pools.served(request.user_id))  # what will not be shown need not be scored
            made = await self._selection.ordered(fresh, context, count, arm)
        return made, context.events.item_id

    def _count(self, shown: Ranked | None, source: Source, arm: RecommendArm, seconds: float) -> None:
        RECOMMEND_LISTS.labels(source=source, arm=arm.name).inc()
        RECOMMEND_LIST_SECONDS.labels(source=source, arm=arm.name).observe(seconds)
        if shown is not None and source == "cached":
            RECOMMEND_AGE_SECONDS.labels(arm=arm.name).observe(time.monotonic() - shown.made_s)
        self.degradation[arm.name].observe(shown, generated=source == "generated")

    def _told(
        self,
        shown: Ranked | None,
        request: RecommendRequest,
        source: Source,
        arm: RecommendArm,
        seen: npt.NDArray[np.int64],
    ) -> RecommendResponse:
        """The response; a list that is too short is filled up with popular items, which the user has not ``seen``."""
        items = [] if shown is None else shown.item_ids.tolist()
        log_probs = [] if shown is None else shown.log_probs.tolist()
        if self.settings.recommend.precision != "fp32" or arm.weights:
            log_probs = [[]] * len(items)
        found = [Recommendation(item_id=item, generated=own) for item, own in zip(items, log_probs, strict=True)]
        if len(items) < request.count:
            told = np.asarray([*items, *request.exclude], np.int64)
            taken = np.concatenate((self.pools.served(request.user_id), seen, told))
            more = self.recommender.popular(request.count - len(items), taken)
            found += [Recommendation(item_id=item) for item in more.tolist()]
        return RecommendResponse(
            items=found,
            source=source,
            degraded=source != "generated",
            age_s=0.0 if shown is None else max(time.monotonic() - shown.made_s, 0.0),
            parameter_version=None if shown is None else shown.parameter_version,
            reward_version="" if shown is None else shown.reward_version,
            index_version=self.recommender.index.version if shown is None else shown.index_version,
            arm=arm.name,
        )

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            with closing(Histories(self.sessions.path, self.settings)) as histories:
                self._prepare()
                while not self._stop.is_set():
                    self._batch(loop, histories)
        except Exception as error:
            self.failure, self.ready = f"{type(error).__name__}: {error}", False
            log.exception("no longer generating")
            self._on_failure()

    def _prepare(self) -> None:
        while not (self.recommender.swap() and self.sessions.caught_up.is_set()):
            if self._stop.wait(IDLE_S):
                return
            if self.sessions.failure:
                raise RuntimeError("histories are not followed") from self.sessions.failure
        self.recommender.warm_up()
        self.ready = True
        log.info("ready with parameter version %d", self.recommender.version)

    def _batch(self, loop: asyncio.AbstractEventLoop, histories: Histories) -> None:
        asked = self._batches.take(IDLE_S)
        if self.sessions.failure:
            raise RuntimeError("histories are no longer followed") from self.sessions.failure
        self.recommender.swap()
        if not asked:
            return
        began = time.perf_counter()
        try:
            found: list[tuple[Ranked, Context]] | Exception = self.recommender.recommend(
                [(one.request, one.arm) for one in asked], histories
            )
        except Exception as error:  # these requests fail, later ones may not
            log.exception("a batch of %d requests failed", len(asked))
            found = error
        seconds = time.perf_counter() - began
        RECOMMEND_BATCH_SECONDS.observe(seconds)
        RECOMMEND_BATCH_USERS.observe(len(asked))
        loop.call_soon_threadsafe(self._deliver, asked, found, seconds)

    def _deliver(self, asked: list[_Asked], found: list[tuple[Ranked, Context]] | Exception, seconds: float) -> None:
        self.shedder.observe(len(asked), seconds)
        for k, one in enumerate(asked):
            if one.answer.done():  # nobody waits any more
                continue
            if isinstance(found, Exception):
                one.answer.set_exception(found)
            else:
                one.answer.set_result(found[k])
