"""The rollout side of ``POST /v1/score``: bounded, retried, and never inventing a value."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass

import urllib3
from urllib3.util import parse_url

from common.access import access
from common.messages import ScoreRequest, ScoreResponse, Terms, UserContext, decode

CHUNK = 2048
"""Most items that the service scores in one call."""
LONGEST_PAUSE_S = 5.0
CONNECTIONS = 16
"""Most that are kept for the next call; more are opened if more threads call at once."""


class RewardError(RuntimeError):
    """A reward could not be had: names the service and the cause."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Rewards of one user's items, in the order asked, all by one reward-model version."""

    reward_version: str
    rewards: list[float]


class _PassingError(RewardError):
    """A failure that may pass by itself; ``pause_s`` is what the service asked for (0: nothing)."""

    def __init__(self, message: str, pause_s: float = 0.0) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class RewardClient:
    """Scores items over HTTP.

    Args:
        url: base address of the reward service.
        timeout_s: bound on connecting and on each read of one call.
        attempts: calls per chunk before giving up; pauses between them double from ``pause_s``, with jitter.
    """

    def __init__(self, url: str, timeout_s: float = 10.0, attempts: int = 4, pause_s: float = 0.1) -> None:
        if attempts < 1 or timeout_s <= 0:
            raise ValueError(f"attempts must be at least 1 and timeout_s positive, got {attempts} and {timeout_s}")
        headers = {"content-type": "application/json", **access().caller_headers()}
        self._http = urllib3.connection_from_url(url, maxsize=CONNECTIONS, headers=headers, retries=False)
        self._path = f"{(parse_url(url).path or '').rstrip('/')}/v1/score"
        self.name = f"reward service at {self._http.host}:{self._http.port}"
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._pause_s = pause_s

    def score(
        self,
        context: UserContext,
        item_ids: list[int],
        index_version: int,
        budget_s: float = math.inf,
        terms: Terms = {},  # noqa: B006
    ) -> Scores:
        """Rewards of items for one context, within ``budget_s`` seconds altogether; by the profile's terms unless some are
        given.

        Raises:
            RewardError: the service could not be reached, refused, answered nonsense, or kept changing its version.
        """
        if not item_ids:
            return Scores("", [])
        deadline = time.monotonic() + budget_s
        chunks = [item_ids[start : start + CHUNK] for start in range(0, len(item_ids), CHUNK)]
        versions: set[str] = set()
        for _ in range(self._attempts):
            asked = [
                ScoreRequest(context=context, item_ids=some, index_version=index_version, terms=terms, rewards_only=True)
                for some in chunks
            ]
            parts = [self._chunk(request, deadline) for request in asked]
            versions = {part.reward_version for part in parts}
            if len(versions) == 1:
                return Scores(versions.pop(), [reward for part in parts for reward in part.rewards])
        raise RewardError(f"{self.name} changed its version within one group {self._attempts} times: {sorted(versions)}")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _chunk(self, request: ScoreRequest, deadline: float) -> ScoreResponse:
        """One chunk's answer, after at most ``attempts`` calls."""
        body = request.to_bytes()
        for attempt in range(self._attempts):
            try:
                return self._call(body, len(request.item_ids), deadline)
            except _PassingError as error:
                pause = max(error.pause_s, self._pause_s * 2**attempt * random.uniform(0.5, 1.5))
                pause = min(pause, LONGEST_PAUSE_S)
                if attempt == self._attempts - 1 or time.monotonic() + pause >= deadline:
                    raise RewardError(f"{error} (after {attempt + 1} attempts)") from None
                time.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _call(self, body: bytes, items: int, deadline: float) -> ScoreResponse:
        left = deadline - time.monotonic()
        if left <= 0:
            raise RewardError(f"{self.name}: no time left to score")
        try:
            reply = self._http.urlopen("POST", self._path, body, timeout=min(self._timeout_s, left))
        except urllib3.exceptions.HTTPError as error:
            raise _PassingError(f"{self.name}: {type(error).__name__}: {error}") from None
        if reply.status >= 500 or reply.status == 429:
            raise _PassingError(f"{self.name} answered {reply.status}: {_head(reply)}", _retry_after(reply))
        if reply.status != 200:
            raise RewardError(f"{self.name} answered {reply.status}: {_head(reply)}")
        return self._checked(reply, items)

    def _checked(self, reply: urllib3.BaseHTTPResponse, items: int) -> ScoreResponse:
        response = decode(ScoreResponse, reply.data)
        if isinstance(response, str):
            raise RewardError(f"{self.name} answered something else than scores: {response}")
        if len(response.rewards) != items or not response.reward_version:
            raise RewardError(
                f"{self.name} answered {len(response.rewards)} rewards for {items} items ({response.reward_version!r})"
            )
        return response


def _head(reply: urllib3.BaseHTTPResponse) -> str:
    return " ".join(reply.data[:200].decode(errors="replace").split())


def _retry_after(reply: urllib3.BaseHTTPResponse) -> float:
    """Seconds of a Retry-After header; 0 where it is missing or a date."""
    value = reply.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
