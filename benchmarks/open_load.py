"""Open-loop load on the recommend endpoint: requests go out when they are due, however long the others take.

Arrivals are a Poisson process. Latency counts from when a request was due, so that it also holds what a client that fell
behind added to it. To be called in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter

import httpx
import numpy as np
from pydantic import BaseModel

TIMEOUT_S = 20.0
SOURCES = ("generated", "cached", "popular")
"""Of lists."""


class Load(BaseModel):
    """What is asked: ``rate`` requests a second for ``seconds``, of users 0..users-1 at random."""

    url: str
    rate: float
    seconds: float
    users: int
    count: int = 10
    seed: int = 0


class Answered(BaseModel):
    """What became of a load."""

    outcomes: dict[str, int]
    """Requests by source of their list; those that got none by status or error."""
    latency_ms: dict[str, float]
    """Of all requests: the quantiles p50, p90, p99 and the largest."""
    seconds: float
    """From the first request due to the last answer."""
    client_cores: float
    """Processor time of this process over that."""

    @property
    def generated_rate(self) -> float:
        """Lists generated a second."""
        return self.outcomes.get("generated", 0) / self.seconds

    @property
    def dropped(self) -> int:
        """Requests that got no list."""
        return sum(count for outcome, count in self.outcomes.items() if outcome not in SOURCES)


def offer(load: Load) -> Answered:
    """Send a load and wait for all answers."""
    return asyncio.run(_offer(load))


async def _offer(load: Load) -> Answered:
    rng = np.random.default_rng(load.seed)
    due = np.cumsum(rng.exponential(1 / load.rate, max(round(load.rate * load.seconds), 1)))
    users = rng.integers(0, load.users, len(due))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=load.url, limits=limits, timeout=TIMEOUT_S) as client:
        began, used = time.perf_counter(), time.process_time()
        asked = [_ask(client, began + at, user, load.count) for at, user in zip(due.tolist(), users.tolist(), strict=True)]
        replies = await asyncio.gather(*asked)
        seconds, used = time.perf_counter() - began, time.process_time() - used
    latency_ms = np.array([latency for latency, _ in replies]) * 1000
    quantiles = {f"p{q}": float(np.percentile(latency_ms, q)) for q in (50, 90, 99)}
    return Answered(
        outcomes=dict(Counter(outcome for _, outcome in replies)),
        latency_ms=quantiles | {"max": float(latency_ms.max())},
        seconds=seconds,
        client_cores=used / seconds,
    )


async def _ask(client: httpx.AsyncClient, due: float, user: int, count: int) -> tuple[float, str]:
    """Latency in seconds, and the outcome."""
    await asyncio.sleep(max(due - time.perf_counter(), 0.0))
    try:
        reply = await client.post("/v1/recommend", json={"user_id": user, "count": count})
        outcome = str(json.loads(reply.content)["source"]) if reply.status_code == 200 else f"status {reply.status_code}"
    except httpx.HTTPError as error:
        outcome = type(error).__name__
    return time.perf_counter() - due, outcome
