"""The reward model's choice from what was generated (OneRec technical report, table 12)."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from common.context import Context
from common.metrics import RECOMMEND_UNSELECTED
from common.settings import RecommendArm
from rollout.recommend.pools import Ranked
from rollout.reward_client import RewardClient, RewardError

THREADS = 8
log = logging.getLogger(__name__)


class Selection:
    """Has the first items of a list put in order by the reward service, within ``budget_s``."""

    def __init__(self, url: str, budget_s: float) -> None:
        self.budget_s = budget_s
        self._client = RewardClient(url, timeout_s=budget_s, attempts=1)
        self._threads = ThreadPoolExecutor(THREADS, "selection")

    async def ordered(self, made: Ranked, context: Context, count: int, arm: RecommendArm) -> Ranked:
        """The list with its first ``count`` items by reward (by the arm's own terms), highest first; as it is, and counted,
        without."""
        first = made.take(slice(0, count))
        ask = lambda: self._client.score(  # noqa: E731
            context.to_message(), first.item_ids.tolist(), made.index_version, self.budget_s, arm.terms
        )
        try:
            scores = await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(self._threads, ask), self.budget_s)
        except (RewardError, TimeoutError) as error:
            RECOMMEND_UNSELECTED.labels(arm=arm.name).inc()
            log.warning("a list was not put in order: %s", error or "no answer in time")
            return made
        rewards = np.full(len(made), np.nan, np.float32)
        rewards[: len(first)] = scores.rewards
        order = np.argsort(-rewards, kind="stable")  # those without one last, as they were
        return replace(made, values=rewards, reward_version=scores.reward_version).take(order)

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(cancel_futures=True)
        self._client.close()
