"""Who gets rollouts, and what a rollout request is called. Both are pure functions, so that a restart decides the same."""

from __future__ import annotations

import xxhash

DAY_MS = 86_400_000


def is_rl_user(user_id: int, day: int, rate: float, salt: int) -> bool:
    """Whether rollouts are requested for a user on a day (of event time): a stable draw with probability ``rate``.

    The same users are chosen all day long, and others on the next day.
    """
    draw = xxhash.xxh3_64_intdigest(f"{salt}/{day}/{user_id}".encode())
    return draw < rate * 2**64


def request_id(run: str, topic: str, partition: int, offset: int) -> str:
    """The id of the request made for one record: a request that is sent again after a crash has the same one."""
    return f"{run}/{topic}/{partition}/{offset}"
