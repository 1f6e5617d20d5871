"""A recommend endpoint with synthetic users, as a process with the embedded brokers, and its engine in this process."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.featurise import Scale, catalogue, sample
from benchmarks.open_load import Answered, Load, offer
from common.context import Context
from common.history import INITIAL, HistoryStore
from common.parameter_channel import Publisher
from common.policy import build_policy, to_blob
from common.settings import Settings, save_settings
from common.stream import create_topics
from deploy.local.embedded import start_kafka, start_redis
from deploy.local.leash import tie
from deploy.local.processes import Child, spawn, wait_until
from deploy.local.run_folder import read_json, write_json
from rollout.engine import GenerationEngine

RUN = "bench"
READY_S = 60.0


class World:
    """A policy with random weights, a catalogue, and users with histories."""

    def __init__(self, settings: Settings, size: Scale) -> None:
        rng = np.random.default_rng(0)
        self.settings = settings
        self.index, topic = catalogue(size, rng)
        now_ms = int(time.time() * 1000)
        samples = (sample(size, self.index, topic, user, rng).context for user in range(size.contexts))
        self.contexts = [Context(one.user_id, now_ms, events=one.events) for one in samples]
        self.policy = build_policy(settings.policy, 0)


class Engine:
    """The endpoint's engine, called without the endpoint."""

    def __init__(self, world: World) -> None:
        self.contexts = world.contexts
        self._engine = GenerationEngine(world.policy, world.index, world.settings.recommend.beam, constrained=True)
        self._next = 0
        for context in world.contexts:
            self._engine.featurizer([context])

    def rate(self, batch: int, seconds: float) -> float:
        """Users a second in batches of this size, for about as long."""
        began, users = time.perf_counter(), 0
        while (took := time.perf_counter() - began) < seconds or not users:
            where = (self._next + np.arange(batch)) % len(self.contexts)
            self._engine.generate([self.contexts[k] for k in where])
            self._next += batch
            users += batch
        return users / took


class Endpoint:
    """A running endpoint."""

    def __init__(self, url: str, child: Child, client: ProcessPoolExecutor) -> None:
        self.url, self._client = url, client
        self._process = psutil.Process(child.pid)

    def take(self, load: Load) -> tuple[Answered, float, float]:
        """Load it: what became of the requests, the mean size of the batches, and the endpoint's processor time over the
        load's."""
        before, used = self._batches(), sum(self._process.cpu_times()[:2])
        answered = self._client.submit(offer, load).result()
        batches, users = np.subtract(self._batches(), before)
        return answered, float(users / batches), (sum(self._process.cpu_times()[:2]) - used) / answered.seconds

    def ask_for(self, users: int) -> None:
        """Have a list made for each of them."""
        with httpx.Client(base_url=self.url, timeout=READY_S) as client:
            for user in range(users):
                client.post("/v1/recommend", json={"user_id": user, "count": 1}).raise_for_status()

    def _batches(self) -> tuple[float, float]:
        """How many there were, and of how many requests together."""
        families = text_string_to_metric_families(httpx.get(f"{self.url}/metrics", timeout=READY_S).text)
        values = {one.name: one.value for family in families for one in family.samples if not one.labels}
        name = "onerec_recommend_batch_users_number"
        return values[f"{name}_count"], values[f"{name}_sum"]


@contextmanager
def serving(folder: Path, world: World) -> Iterator[Endpoint]:
    """An endpoint that is ready, and a process that can load it."""
    settings = world.settings
    with ExitStack() as opened:
        kafka, redis = (start(folder / name, folder / f"{name}.log") for name, start in BROKERS.items())
        for broker in (kafka, redis):
            opened.callback(broker.child.terminate, 5.0)
        create_topics(kafka.address, RUN, settings.stream.partitions, READY_S)
        _write_run(folder, world, kafka.address)
        publisher = opened.enter_context(closing(Publisher(redis.address, RUN, 3600, READY_S)))
        publisher.publish(0, to_blob(world.policy))
        command = [sys.executable, "-m", "rollout.recommend", "--run-folder", str(folder)]
        environment = {"OMP_NUM_THREADS": "1", "ONEREC_REDIS__URL": redis.address}
        child = spawn(command, folder / "recommend.log", environment, "recommend endpoint")
        opened.callback(child.terminate, 10.0)
        told = folder / "ready" / "recommend.json"
        wait_until(told.exists, READY_S, "the endpoint", [child])
        url = str(read_json(told)["url"])
        wait_until(lambda: httpx.get(f"{url}/readyz").is_success, READY_S, "its first list", [child])
        spawning = multiprocessing.get_context("spawn")
        yield Endpoint(url, child, opened.enter_context(ProcessPoolExecutor(1, spawning, tie, (os.getpid(),))))


BROKERS = {"kafka": start_kafka, "redis": start_redis}


def _write_run(folder: Path, world: World, kafka: str) -> None:
    """All that an endpoint reads; the histories are in its store already, as if it had followed the stream before."""
    save_settings(world.settings, folder / "settings.json")
    write_json(folder / "endpoints.json", {"run": RUN, "kafka": kafka, "prefix": RUN, "reward": "http://127.0.0.1:1"})
    world.index.save(folder / "index" / "000001")
    (folder / "recommend").mkdir()
    with HistoryStore(folder / "recommend" / "history.sqlite") as history:
        for context in world.contexts:
            history.append(INITIAL, INITIAL, context.user_id, context.events)
        history.commit()
