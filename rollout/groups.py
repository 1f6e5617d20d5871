"""Rollout groups from requests: scored ones, and ones that only say why there are no candidates."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from common.messages import NO_ITEM, RolloutGroup, RolloutRequest, Sampler
from common.settings import RlSettings
from rollout.engine import Candidates
from rollout.reward_client import Scores

ECHOED = (
    "request_id",
    "run",
    "topic",
    "partition",
    "offset",
    "digest",
    "tokenizer_version",
    "index_version",
    "requested_ms",
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Who generates: the actor's name, its parameter version and its sampler settings."""

    actor: str
    parameter_version: int
    sampler: Sampler


def sampler_of(rl: RlSettings) -> Sampler:
    """What the settings say of how candidates are generated."""
    if rl.candidates == "beam":
        return Sampler(width=rl.group_size)
    return Sampler(kind="sample", width=rl.group_size, top_k=rl.top_k, top_p=rl.top_p)


def scored_group(
    request: RolloutRequest, origin: Origin, candidates: Candidates, scores: Scores, generated_ms: float, scored_ms: float
) -> RolloutGroup:
    """The group of a request; ``scores`` hold one reward per legal candidate, in order."""
    item_ids: list[int] = candidates.item_ids.tolist()
    rewards = iter(scores.rewards)
    return RolloutGroup(
        **_head(request, origin),
        reward_version=scores.reward_version,
        codes=candidates.codes.tolist(),
        log_probs=candidates.log_probs.tolist(),
        item_ids=item_ids,
        rewards=[None if item == NO_ITEM else next(rewards) for item in item_ids],
        generated_ms=generated_ms,
        scored_ms=scored_ms,
    )


def failed_group(
    request: RolloutRequest, origin: Origin, failure: str, generated_ms: float = 0.0, scored_ms: float = 0.0
) -> RolloutGroup:
    """A group without candidates: what could not be had, in one line."""
    failure = " ".join(failure.split())[:500]
    return RolloutGroup(**_head(request, origin), failure=failure, generated_ms=generated_ms, scored_ms=scored_ms)


def _head(request: RolloutRequest, origin: Origin) -> dict[str, Any]:
    echoed = {name: getattr(request, name) for name in ECHOED}
    return echoed | {
        "actor": origin.actor,
        "parameter_version": origin.parameter_version,
        "sampler": origin.sampler,
        "produced_ms": time.time_ns() // 1_000_000,
    }
