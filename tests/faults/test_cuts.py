"""Connections to Kafka and Redis that are reset, stalled and refused while a trainer trains through them."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from deploy.local.embedded import start_kafka
from deploy.local.processes import free_port
from tests.faults.proxy import Proxy
from tests.faults.test_trainer_kills import check_ledger
from tests.trainer.test_loop import final, start, wait_for_steps
from tests.trainer.tiny_run import TinyRun, stream_sessions

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
ROUNDS, PER_ROUND = 4, 24
CUT_S = 3.0
Fault = Callable[[Proxy], AbstractContextManager[object]]
FAULTS: dict[str, Fault] = {
    "reset": lambda proxy: nullcontext(proxy.reset()),
    "stalled": lambda proxy: proxy.stalled(),
    "cut": lambda proxy: proxy.cut(),
}


@pytest.fixture
def between_kafka(tmp_path: Path) -> Iterator[Proxy]:
    """A proxy that every client of a broker goes through."""
    port = free_port()
    proxy = Proxy(("127.0.0.1", port))
    broker = start_kafka(tmp_path / "kafka", tmp_path / "kafka.log", port, advertised=proxy.address)
    yield proxy
    broker.child.terminate(5.0)
    proxy.close()


@pytest.fixture
def between_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    plain = urlsplit(redis_url)
    assert plain.port
    proxy = Proxy(("127.0.0.1", plain.port))
    monkeypatch.setenv("ONEREC_REDIS__URL", urlunsplit(plain._replace(netloc=f":{plain.password}@{proxy.address}")))
    yield proxy
    proxy.close()


def trained_through(run: TinyRun, proxy: Proxy, fault: Fault) -> None:
    """Sessions arrive, the fault happens for a while after a random number of steps, and again; nothing may be lost.

    A trainer that gives up is started again, as every supervisor does.
    """
    rng, sessions = random.Random(0), stream_sessions(ROUNDS * PER_ROUND)
    trainer = start(run)
    try:
        ends: dict[int, int] = {}
        for number in range(ROUNDS):
            ends |= run.send([sessions.pop(0) for _ in range(PER_ROUND)], end=False)
            wait_for_steps(run, number * PER_ROUND // 4 + rng.randint(1, 4))
            with fault(proxy):
                code = _code(trainer, CUT_S)
            trainer = trainer if code is None else _again(run, code)
            wait_for_steps(run, (number + 1) * PER_ROUND // 4)
        run.tell_end(ends)
        while code := trainer.wait(120):
            trainer = _again(run, code)
    finally:
        trainer.kill()
        trainer.wait()
    check_ledger(run, ROUNDS * PER_ROUND)


def _code(trainer: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return trainer.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _again(run: TinyRun, code: int) -> subprocess.Popen[bytes]:
    assert code == 1, f"the trainer ended with status {code}"  # one line in its log, no crash
    return start(run)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_between_trainer_and_kafka(
    fault: Fault, between_kafka: Proxy, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEREC_REDIS__URL", redis_url)
    run = TinyRun.make(tmp_path / "run", between_kafka.address, "stream.partitions=2", "rl.rate=0")
    trained_through(run, between_kafka, fault)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_between_trainer_and_redis(fault: Fault, between_redis: Proxy, tmp_path: Path, kafka: str) -> None:
    run = TinyRun.make(tmp_path / "run", kafka, "stream.partitions=2", "rl.rate=0", "redis.timeout_s=2")
    trained_through(run, between_redis, fault)
    assert final(run).state.versions[-1] == ROUNDS * PER_ROUND // 4
