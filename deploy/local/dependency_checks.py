"""Checks of the servers that a run talks to: Kafka and its topics, Redis, the reward service, the workers' own endpoints."""

from __future__ import annotations

import os
import time
import urllib.request
from functools import partial
from typing import Any

import psutil
import redis

from common.endpoints import Endpoints
from common.settings import Settings
from common.stream import check_topics, wait_for_broker
from deploy.local.checks import Check, Skip, Trouble
from deploy.local.preflight import check_kafka, check_redis
from deploy.local.run_folder import RunFolder, read_json

ANSWER_S = 5.0
BROKER = "start the broker, or correct its address or the ONEREC_ACCESS_KAFKA_... variables"
REDIS = "start the server, or correct ONEREC_REDIS__URL"
CLOCK_S = 5.0
"""How far the clocks of two machines may be apart."""


def kafka_answers(bootstrap: str) -> str:
    """A broker that answers a metadata call."""
    check_kafka(bootstrap)
    wait_for_broker(bootstrap, ANSWER_S)
    return f"{bootstrap} answers"


def redis_answers(url: str) -> str:
    """A Redis that answers, drops nothing, and whose clock agrees with ours."""
    check_redis(url)
    with redis.Redis.from_url(url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S, retry=None) as client:
        info: dict[str, Any] = client.info()
        seconds, microseconds = client.time()
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise Trouble(f"maxmemory-policy is {policy}", "set it to noeviction: parameter chunks must not be dropped")
    apart = abs(seconds + microseconds / 1e6 - time.time())
    if apart > CLOCK_S:
        raise Trouble(f"its clock and ours are {apart:.0f} s apart", "let NTP set both clocks", "warning")
    return f"version {info.get('redis_version')}, {info.get('used_memory_human')} used, clocks {apart:.1f} s apart"


def server_checks(kafka: str, redis_url: str) -> list[Check]:
    """Checks of existing servers, where they are given."""
    checks = [Check("Kafka", partial(kafka_answers, kafka), BROKER)] if kafka else []
    return checks + ([Check("Redis", partial(redis_answers, redis_url), REDIS)] if redis_url else [])


class RunServers:
    """Checks of one run's servers. Those of a run that has ended are skipped where they ended with it."""

    def __init__(self, run: RunFolder, settings: Settings) -> None:
        self.run, self.settings = run, settings

    def checks(self) -> list[Check]:
        """In the order in which one needs the other."""
        return [
            Check("Kafka", self.kafka, BROKER),
            Check("topics", self.topics, BROKER),
            Check("Redis", self.redis, REDIS),
            Check("reward service", self.reward),
            Check("workers", self.workers),
        ]

    def kafka(self) -> str:
        """The run's broker."""
        return kafka_answers(self._endpoints(embedded=not self.settings.stream.bootstrap).kafka)

    def topics(self) -> str:
        """All topics, with the declared number of partitions."""
        endpoints = self._endpoints(embedded=not self.settings.stream.bootstrap)
        check_topics(endpoints.kafka, endpoints.prefix, self.settings.stream.partitions, ANSWER_S)
        return f"all there below {endpoints.prefix}"

    def redis(self) -> str:
        """The Redis of our environment; the password of an embedded one is known to its own run alone."""
        url = self.settings.redis.url.get_secret_value()
        if not url:
            raise Skip(
                "the run's own, whose password only its processes know; an existing one is given as ONEREC_REDIS__URL"
            )
        return redis_answers(url)

    def reward(self) -> str:
        """The reward service is ready to score."""
        url = self._endpoints(embedded=self._local()).reward
        try:
            _get(f"{url}/readyz")
        except OSError as error:
            raise Trouble(f"{url}: {error}", f"see {self.run.log_file('reward')}; start it with `onerec reward`") from None
        return f"{url} is ready"

    def workers(self) -> str:
        """Every worker that announced itself still serves its metrics."""
        self._endpoints(embedded=self._local())
        ready = {path.stem: read_json(path) for path in sorted((self.run.path / "ready").glob("*.json"))}
        if not ready:
            raise Trouble("none is ready", "start them: `onerec up`, or each by its own command")
        silent = [name for name, told in ready.items() if "metrics" in told and not _answers(told["metrics"])]
        if silent:
            raise Trouble(
                f"no answer from {', '.join(silent)}", f"see their logs in {self.run.path / 'logs'}, start them again"
            )
        return ", ".join(ready)

    def _local(self) -> bool:
        """Whether `onerec up` made the run, so that its parts end with it."""
        return self.run.processes.exists()

    def _endpoints(self, *, embedded: bool) -> Endpoints:
        """Where the run's parts are; skips what is gone with the run."""
        if embedded and not any(map(_lives, read_json(self.run.processes).values())):
            raise Skip("the run's own, and the run is not running")
        return Endpoints.read(self.run.path)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).uids().real == os.getuid()
    except psutil.NoSuchProcess:
        return False


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:  # noqa: S310 - an address of the run's own
        body: bytes = answer.read()
        return body


def _answers(url: str) -> bool:
    try:
        return bool(_get(url))
    except OSError:
        return False
