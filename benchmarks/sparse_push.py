"""A version that touched a hundredth of an id table's rows sends at most three hundredths of the table's bytes.

The policy has a vid table of a million items. Between two versions every dense weight changes and so does one row in a
hundred of every id table, which rows being drawn anew each time. The rival sends everything, to the same four actors.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from benchmarks.harness import BenchResult, Claim, Race, seconds
from benchmarks.push import Scale as Fleet
from benchmarks.push import await_all, embedded_redis, following
from common.parameter_channel import Publisher, publisher
from common.parameter_channel.manifest import Part
from common.policy import build_policy, to_blob
from common.settings import PolicySettings
from trainer.row_wise import row_tables

Say = Callable[[str], None]
MOST = 0.03
WARM_UP = 2


class Scale(BaseModel):
    """The benchmark's size."""

    policy: PolicySettings = PolicySettings(vid_input=True, item_buckets=1_000_000, feature_width=64)
    touched: float = 0.01
    actors: int = 4
    runs: int = 9


def run(data: Path, on_progress: Say) -> BenchResult:  # noqa: ARG001 - the weights are random
    """Takes about a minute."""
    return compare(Scale(), on_progress)


def compare(scale: Scale, on_progress: Say) -> BenchResult:
    """The benchmark at any scale."""
    policy = build_policy(scale.policy, 0)
    tables, rng = row_tables(policy), torch.Generator().manual_seed(0)
    table_bytes = sum(table.nbytes for table in tables.values())
    timed, sent = Race([], []), list[int]()
    with tempfile.TemporaryDirectory() as name, embedded_redis(Path(name)) as url, ExitStack() as opened:
        channel = opened.enter_context(closing(Publisher(url, "bench", 600, 60.0)))
        on_progress(f"starting {scale.actors} actors")
        actors = opened.enter_context(following(Fleet(policy=scale.policy, actors=scale.actors), url, Path(name)))

        def push(version: int) -> Part:
            train(policy, tables, scale.touched, rng)
            blob = to_blob(policy)

            def arrive() -> None:
                channel.publish(version, blob)
                await_all(actors, version)

            took, parts = seconds(arrive), channel.parts
            (timed.ours if len(parts) > 1 else timed.rival).append(took)
            return parts[-1]

        for number in range(-WARM_UP, scale.runs):
            on_progress(f"run {number + 1} of {scale.runs}" if number >= 0 else "warming up")
            with everything_sent():
                push(2 * (number + WARM_UP))
            sent.append(push(2 * (number + WARM_UP) + 1).nbytes)
        timed = Race(timed.ours[WARM_UP:], timed.rival[WARM_UP:])
    dense = len(to_blob(policy)) - table_bytes
    shares = [(nbytes - dense) / table_bytes for nbytes in sent]
    claim = Claim(claim=f"at most {MOST:.0%} of the tables' bytes", holds=max(shares) <= MOST, figures={"shares": shares})
    details: dict[str, Any] = {
        "bytes": {"tables": table_bytes, "dense": dense, "sent": sent},
        "seconds": {"ours": timed.ours, "rival": timed.rival},
        "claims": [claim],
        "scale": scale.model_dump(mode="json"),
    }
    return BenchResult(
        name="sparse-push",
        value=timed.value,
        unit="seconds",
        rival=timed.rival_value,
        ratio=timed.ratio,
        spread=timed.spread,
        details=details,
    )


@torch.no_grad()
def train(policy: torch.nn.Module, tables: dict[str, torch.nn.Parameter], touched: float, rng: torch.Generator) -> None:
    """Change what a stretch of training would change."""
    for name, parameter in policy.named_parameters():
        if name in tables:
            rows = torch.randperm(len(parameter), generator=rng)[: round(touched * len(parameter))]
            parameter[rows] += 1e-3
        else:
            parameter.add_(1e-3)


@contextmanager
def everything_sent() -> Iterator[None]:
    """Publishers send no differences."""
    most, publisher.MOST_DIFFERENCE = publisher.MOST_DIFFERENCE, -1.0
    try:
        yield
    finally:
        publisher.MOST_DIFFERENCE = most
