"""New parameters of the 0.121B profile reach four actors in at most 1.5 times what their bare bytes take through Redis.

Four processes follow the channel as rollout actors do and take every version over, each in a policy of its own; a version
has arrived when the last of them has acknowledged it. All weights change, so everything is sent. The rival writes the same
bytes in the same chunks and reads them back once, without manifest, checksums or policies. Redis is the embedded one.

The trainer's steps wait for what comes before that: the copy of the weights, which is then written and published beside
them. The bound for it is 1.5 times one copy of the bytes into new memory.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path

import redis
import torch
from pydantic import BaseModel

from benchmarks.harness import BenchResult, Claim, Floor, Race, copy_rate, seconds
from common.compute import compute_with
from common.parameter_channel import CHUNK_BYTES, Follower, Publisher
from common.policy import Policy, bare_policy, build_policy, packed_weights, take_over, to_blob
from common.settings import PolicySettings, load_settings
from deploy.local.embedded import start_redis
from deploy.local.leash import tie

Say = Callable[[str], None]
SLOWER = 1.5
PATIENCE_S = 120.0


class Scale(BaseModel):
    """The benchmark's size."""

    policy: PolicySettings
    actors: int = 4
    runs: int = 9


def run(data: Path, on_progress: Say) -> BenchResult:  # noqa: ARG001 - the weights are random
    """Takes about two minutes and 8 GiB."""
    return compare(Scale(policy=load_settings("v1-0.121b").policy), on_progress)


def compare(scale: Scale, on_progress: Say) -> BenchResult:
    """The benchmark at any scale. All processes compute as those of the loop do, and keep the memory of what they free."""
    compute_with(threads=1)
    with tempfile.TemporaryDirectory() as name, embedded_redis(Path(name)) as url, ExitStack() as opened:
        publisher = opened.enter_context(closing(Publisher(url, "bench", 600, 60.0)))
        client = opened.enter_context(closing(redis.Redis.from_url(url)))
        on_progress(f"starting {scale.actors} actors")
        actors = opened.enter_context(following(scale, url, Path(name)))
        policy = build_policy(scale.policy, 0)
        versions = Versions(policy)
        out = bytearray(len(versions.newest[1]))

        def ours() -> None:
            version, blob = versions.newest
            publisher.publish(version, blob)
            await_all(actors, version)

        def theirs() -> None:
            pass_through(client, versions.newest[1], out)

        blocked, copied = waited_for(policy, scale.runs)
        nbytes, timed = len(versions.newest[1]), Race([], [])
        on_progress(f"{nbytes / 2**20:,.0f} MiB, {scale.runs} times")
        for warm_up in (ours, theirs, ours):
            versions.advance()
            warm_up()
        for number in range(scale.runs):
            versions.advance()
            turns = [(ours, timed.ours), (theirs, timed.rival)]
            for function, times in turns if number % 2 == 0 else reversed(turns):
                times.append(seconds(function))
    floor = 2 * nbytes / copy_rate()
    waits = statistics.median(blocked) / statistics.median(copied)
    claims = [
        Claim(
            claim=f"at most {SLOWER:g} times the bare bytes", holds=timed.ratio >= 1 / SLOWER, figures={"ratio": timed.ratio}
        ),
        Claim(
            claim=f"blocks the trainer for at most {SLOWER:g} times one copy of the bytes",
            holds=waits <= SLOWER,
            figures={"times": waits},
        ),
    ]
    return BenchResult(
        name="push",
        value=timed.value,
        unit="seconds",
        rival=timed.rival_value,
        ratio=timed.ratio,
        spread=timed.spread,
        floor=Floor(value=floor, what="a copy into Redis and one out of it, at the measured copy rate"),
        details={
            "bytes": nbytes,
            "seconds": {"ours": timed.ours, "rival": timed.rival, "blocked": blocked, "copied": copied},
            "claims": claims,
            "scale": scale.model_dump(mode="json"),
        },
    )


class Versions:
    """A policy's versions, of which each has other numbers in every row."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.newest = policy, (0, b"")
        self.advance()

    @torch.no_grad()
    def advance(self) -> None:
        """Make the next one."""
        for parameter in self.policy.parameters():
            parameter.add_(1e-3)
        self.newest = self.newest[0] + 1, to_blob(self.policy)


def waited_for(policy: Policy, runs: int) -> tuple[list[float], list[float]]:
    """Seconds for which a version keeps the trainer from its steps, and those of one copy of its bytes, turn by turn."""
    weights = torch.frombuffer(bytearray(to_blob(policy)), dtype=torch.uint8)
    blocked, copied = [], []
    for _ in range(runs + 1):  # the first one warms up
        blocked.append(seconds(lambda: packed_weights(policy)))
        copied.append(seconds(weights.clone))
    return blocked[1:], copied[1:]


def pass_through(client: redis.Redis, blob: bytes, out: bytearray) -> None:
    """The rival: SET every chunk, GET every chunk into memory that is at hand."""
    view = memoryview(blob)
    starts = range(0, len(blob), CHUNK_BYTES)
    for start in starts:
        client.set(f"bare:{start}", view[start : start + CHUNK_BYTES])
    for start in starts:
        piece = client.get(f"bare:{start}")
        assert isinstance(piece, bytes)
        out[start : start + len(piece)] = piece


@contextmanager
def embedded_redis(folder: Path) -> Iterator[str]:
    """The URL of a Redis of one's own."""
    broker = start_redis(folder / "redis", folder / "redis.log")
    try:
        yield broker.address
    finally:
        broker.child.terminate(5.0)


@contextmanager
def following(scale: Scale, url: str, folder: Path) -> Iterator[list[Connection]]:
    """Actors that tell every version which they have loaded."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for number in range(scale.actors):
        ours, theirs = spawn.Pipe()
        given = (theirs, url, folder, f"actor-{number}", scale.policy, os.getpid())
        process = spawn.Process(target=_follow, args=given, daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    try:
        await_all(pipes, -1)
        yield pipes
    finally:
        for process in processes:
            process.terminate()
            process.join(10)


def await_all(actors: list[Connection], version: int) -> None:
    """Until every actor has told this version."""
    waiting = list(actors)
    while waiting:
        ready = wait(waiting, PATIENCE_S)
        if not ready:
            raise TimeoutError(f"{len(waiting)} actors have not loaded version {version} in {PATIENCE_S:g} s")
        for one in ready:
            assert isinstance(one, Connection)
            if one.recv() == version:
                waiting.remove(one)


def _follow(told: Connection, url: str, folder: Path, name: str, settings: PolicySettings, parent: int) -> None:
    tie(parent)
    compute_with(threads=1)
    policy, version = bare_policy(settings), -1
    with closing(Follower(url, "bench", name, 60.0, folder)) as follower:
        told.send(version)
        while True:
            follower.wait(1.0)
            newer = follower.fetch_newer(version)
            if newer is not None:
                version, blob = newer
                take_over(policy, blob)
                follower.acknowledge(version)
                told.send(version)
