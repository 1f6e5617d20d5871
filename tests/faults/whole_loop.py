"""A whole loop under faults: what can happen to its parts, and a ledger of what it promised and kept."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

from common.messages import NO_ITEM, Message, RolloutGroup, RolloutRequest, ScoreRequest, decode
from common.session_log import SessionLog
from common.settings import load_settings
from common.stream import LogReader, StreamError, topic_name
from deploy.local.run_folder import read_json
from reward_service.rewards import Rewards
from reward_service.scorer import Scorer
from tests.loop.up import UNTRAINED, Up, read_lines
from trainer.groups import TRAINED

RESUMES_S = 30.0
"""Within which the trainer trains again after any fault."""
FROZEN_S = 20.0
STREAM_DAYS = 2


Fault = Callable[[Up, random.Random], AbstractContextManager[None]]
"""Happens on entering; what it holds up goes on after leaving."""


def streaming(folder: Path, lasts_s: float, users: int, requests: int, environment: dict[str, str] | None = None) -> Up:
    """A run that streams for so long, with a report; its rewards stay those of one model."""
    settings = [f"simulator.users={users}", f"simulator.requests_per_user={requests}", "rl.rate=0.1"]
    settings += ["reward.online.publish_every=0", "tokenizer.online.publish_every_s=3600"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    speed = STREAM_DAYS * 86_400 / lasts_s
    report = ("--report", str(folder / "report.json"))
    return Up.start(folder, *UNTRAINED, *overrides, "--speed", f"{speed:g}", *report, environment=environment)


def journal_steps(up: Up) -> int:
    return len(read_lines(up.run.path / "journal.jsonl"))


def pid_of(up: Up, part: str) -> int:
    pid: int = read_json(up.run.processes)[part]
    return pid


def actors(up: Up) -> list[int]:
    """Process ids of the rollout actors."""
    return [process.pid for process in up.processes() if process.name().startswith("ray::RolloutProc")]


def killed(part: str) -> Fault:
    """The fault that kills a part."""

    @contextmanager
    def fault(up: Up, _: random.Random) -> Iterator[None]:
        os.kill(pid_of(up, part), signal.SIGKILL)
        yield

    return fault


@contextmanager
def an_actor_killed(up: Up, rng: random.Random) -> Iterator[None]:
    """Any of them."""
    up.until(lambda: bool(actors(up)))
    os.kill(rng.choice(actors(up)), signal.SIGKILL)
    yield


@contextmanager
def all_actors_killed(up: Up, _: random.Random) -> Iterator[None]:
    """At once."""
    up.until(lambda: bool(actors(up)))
    for pid in actors(up):
        os.kill(pid, signal.SIGKILL)
    yield


@contextmanager
def broker_frozen(up: Up, _: random.Random) -> Iterator[None]:
    """For `FROZEN_S`."""
    os.kill(pid_of(up, "kafka"), signal.SIGSTOP)
    try:
        yield
        up.stays(FROZEN_S)
    finally:
        os.kill(pid_of(up, "kafka"), signal.SIGCONT)


WHAT: dict[str, Fault] = {
    "trainer killed": killed("trainer"),
    "reward service killed": killed("reward"),
    "Redis killed": killed("redis"),
    "fleet killed": killed("rollout"),
    "tokenizer killed": killed("tokenizer"),
    "recommend endpoint killed": killed("recommend"),
    "an actor killed": an_actor_killed,
    "all actors killed": all_actors_killed,
    "broker frozen": broker_frozen,
}


def until_it_trains_again(up: Up, steps: int) -> float:
    """Wait for a step beyond those; how long it took in seconds."""
    began = time.monotonic()
    up.until(lambda: journal_steps(up) > steps)
    return time.monotonic() - began


def until_it_learns_from_rollouts(up: Up, steps: int) -> float:
    """Wait until a group is trained that was asked for after those steps; how long it took in seconds."""
    began = time.monotonic()
    up.until(lambda: _has_learned(up, steps))
    return time.monotonic() - began


def _has_learned(up: Up, steps: int) -> bool:
    entries = [line["entry"] for line in read_lines(up.run.path / "journal.jsonl")[steps:]]
    ranges = [(int(p), range(*offsets)) for entry in entries for p, offsets in entry["ranges"].items()]
    trained = [group["request"] for entry in entries for group in entry["groups"] if group["outcome"] == TRAINED]
    return any(p == partition and offset in offsets for partition, offset in trained for p, offsets in ranges)


class Ledger:
    """Reads all requests and groups of a run as they are made: the broker forgets them when the run ends."""

    def __init__(self, up: Up) -> None:
        endpoints, partitions = read_json(up.run.endpoints), range(up.run.settings.stream.partitions)
        kinds: dict[str, type[Message]] = {"rollout-requests": RolloutRequest, "rollout-groups": RolloutGroup}
        self.found: dict[str, list[Message]] = {name: [] for name in kinds}
        self._stop = Event()
        self._readers = {
            kind: LogReader(endpoints["kafka"], topic_name(endpoints["prefix"], name), dict.fromkeys(partitions, 0), 60.0)
            for name, kind in kinds.items()
        }
        self._thread = Thread(target=self._read, name="ledger", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        try:
            while not self._stop.is_set():
                for (name, found), (kind, reader) in zip(self.found.items(), self._readers.items(), strict=True):
                    messages = [decode(kind, record.value) for record in reader.poll(500, 0.1)]
                    assert not [one for one in messages if isinstance(one, str)], name
                    found += [one for one in messages if not isinstance(one, str)]
        except StreamError:  # the run has ended, and the broker with it
            pass
        finally:
            for reader in self._readers.values():
                reader.close()


def check_loop(up: Up, ledger: Ledger) -> tuple[dict[str, Any], int]:
    """Nothing was lost, doubled or scored otherwise in a run that has ended: its report, and the groups looked at."""
    report = json.loads((up.run.path.parent / "report.json").read_text())
    checked = check_rewards(up, ledger)
    check_sessions(up, report)
    groups = report["groups"]
    assert checked >= groups["trained"]  # the ledger missed none
    ended = groups["trained"] + sum(groups["dropped"].values())
    assert ended == groups["received"] == groups["requested"] + groups["dropped"].get("duplicate", 0)
    assert report["dead_letters"]["count"] == 0
    return report, checked


def check_sessions(up: Up, report: dict[str, Any]) -> None:
    """Every session of the streamed days is in exactly one step."""
    split = up.run.settings.split
    log = SessionLog.open(up.run.log)
    streamed = sum(1 for _ in log.sessions(split.warm_days, split.warm_days + split.stream_days - 1))
    entries = [line["entry"] for line in read_lines(up.run.path / "journal.jsonl")]
    taken = [(p, o) for entry in entries for p, (first, end) in entry["ranges"].items() for o in range(first, end)]
    counts = report["sessions"]
    # after a failure the replayer sends again what it is not sure of: those are dropped as duplicates
    assert len(taken) == len(set(taken)) == counts["consumed"]
    assert counts["valid"] == counts["consumed"] - counts["duplicates"] == streamed


def check_rewards(up: Up, ledger: Ledger) -> int:
    """The rewards of every group are those of the model that it names; how many groups there were."""
    requests = {one.request_id: one for one in ledger.found["rollout-requests"] if isinstance(one, RolloutRequest)}
    groups = [one for one in ledger.found["rollout-groups"] if isinstance(one, RolloutGroup) and not one.failure]
    settings = load_settings(up.run.path / "settings.json")
    scorer = Scorer(up.run.path / "reward", up.run.index, Rewards(settings.reward))
    held = [group for group in groups if group.index_version in scorer.index_versions]
    try:
        for group in held:
            items = [item for item in group.item_ids if item != NO_ITEM]
            asked = ScoreRequest(
                context=requests[group.request_id].context, item_ids=items or [0], index_version=group.index_version
            )
            expected = scorer.score(asked).rewards if items else []
            assert [reward is None for reward in group.rewards] == [item == NO_ITEM for item in group.item_ids]
            found = [reward for reward in group.rewards if reward is not None]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    finally:
        scorer.close()
    return len(held)
