"""Checks of servers, on the embedded ones."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import redis

from common.settings import Settings
from common.stream import create_topics
from deploy.local import dependency_checks
from deploy.local.checks import Finding, Skip, find
from deploy.local.dependency_checks import RunServers, redis_answers, server_checks
from deploy.local.processes import free_port
from deploy.local.run_folder import RunFolder, write_json

PREFIX = "doctor"


def run_of(folder: Path, kafka: str, partitions: int = 2, pid: int = 0) -> RunServers:
    settings = Settings.model_validate({"stream": {"bootstrap": "" if pid else kafka, "partitions": partitions}})
    run = RunFolder.create(folder, settings, {})
    endpoints = {"run": "r", "kafka": kafka, "prefix": PREFIX, "reward": f"http://127.0.0.1:{free_port()}"}
    write_json(run.endpoints, endpoints)
    if pid:
        write_json(run.processes, {"trainer": pid})
    return RunServers(run, settings)


def outcomes(servers: RunServers) -> dict[str, Finding]:
    return {check.name: find(check) for check in servers.checks()}


def test_servers_that_answer(kafka: str, redis_url: str) -> None:
    told = {check.name: find(check) for check in server_checks(kafka, redis_url)}
    assert {finding.state for finding in told.values()} == {"ok"}
    assert told["Kafka"].found == f"{kafka} answers"
    assert "clocks 0." in told["Redis"].found
    assert server_checks("", "") == []


def test_servers_that_do_not(redis_url: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    told = {check.name: find(check) for check in server_checks(address, f"redis://:hunter2@{address}/0")}
    assert [finding.state for finding in told.values()] == ["error", "error"]
    assert all(address in finding.found and finding.remedy.startswith("start the ") for finding in told.values())
    assert "hunter2" not in str(told)
    (wrong,) = server_checks("", redis_url.replace(":", ":no", 2).replace("redis:no", "redis:", 1))
    assert find(wrong).state == "error"


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependency_checks, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (check,) = server_checks("", f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        assert find(check, patience_s=10).state == "error"


def test_a_redis_that_may_drop_keys_is_an_error(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            (check,) = server_checks("", redis_url)
            finding = find(check)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert (finding.state, finding.found) == ("error", "maxmemory-policy is allkeys-lru")
    assert redis_answers(redis_url)


def test_topics_must_be_there_with_their_partitions(kafka: str, tmp_path: Path) -> None:
    missing = outcomes(run_of(tmp_path / "missing", kafka))["topics"]
    assert missing.state == "error"
    assert "topic doctor.sessions is missing" in missing.found
    assert "onerec topics create" in missing.found
    create_topics(kafka, PREFIX, 2, 30.0)
    assert outcomes(run_of(tmp_path / "there", kafka))["topics"].found == "all there below doctor"
    other = outcomes(run_of(tmp_path / "other", kafka, partitions=3))["topics"]
    assert "doctor.sessions has 2 partitions instead of 3" in other.found


def test_workers_must_answer_where_they_announced_themselves(kafka: str, tmp_path: Path) -> None:
    servers = run_of(tmp_path, kafka)
    assert outcomes(servers)["workers"].found == "none is ready"
    silent = {"pid": 1, "metrics": f"http://127.0.0.1:{free_port()}/metrics"}
    write_json(tmp_path / "ready" / "trainer.json", silent)
    told = outcomes(servers)
    assert (told["workers"].state, told["workers"].found) == ("error", "no answer from trainer")
    assert (told["reward service"].state, "onerec reward" in told["reward service"].remedy) == ("error", True)


def test_what_ended_with_its_run_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dependency_checks, "ANSWER_S", 0.2)
    address = f"127.0.0.1:{free_port()}"
    ended = run_of(tmp_path / "ended", address, pid=2**22 + 1)
    assert {finding.state for finding in outcomes(ended).values()} == {"skipped"}
    goes_on = run_of(tmp_path / "on", address, pid=os.getpid())
    assert outcomes(goes_on)["Kafka"].state == "error"
    with pytest.raises(Skip, match="ONEREC_REDIS__URL"):
        goes_on.redis()
    assert json.loads(goes_on.run.processes.read_text()) == {"trainer": os.getpid()}
