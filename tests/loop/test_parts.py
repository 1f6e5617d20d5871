"""The loop as containers start it: `onerec init`, then every part by itself, with its own host and ports, on servers that
are there already, the rollout actors on a Ray cluster that is there already."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from deploy.local.processes import Child, free_port, spawn, wait_until
from tests.loop.up import UNTRAINED

START_S = 120.0
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("ONEREC_", "RAY_"))}
WORKERS = {
    "learner": "reward_service.online",
    "tokenizer": "tokenizer_job",
    "rollout": "rollout",
    "trainer": "trainer",
}
SERVICES = {"reward": "reward_service"}
SMALL = ("--set", "simulator.users=30", "--set", "simulator.requests_per_user=10", "--set", "recommend.on=false")


def onerec(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.cli.main", *arguments]
    return subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=START_S, check=False)


def init(folder: Path, kafka: str, reward_port: int) -> subprocess.CompletedProcess[str]:
    where = ["--run-folder", str(folder), "--kafka", kafka, "--reward", f"http://127.0.0.1:{reward_port}"]
    return onerec("init", "--profile", "test", *where, *UNTRAINED, *SMALL)


def files(folder: Path) -> dict[str, int]:
    """Every file of a folder with the time of its last change."""
    return {
        str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.parent.name != "logs"
    }


@contextmanager
def ray_cluster(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of a Ray head with room for the actors."""
    port = free_port()
    command = ["start", "--head", "--node-ip-address", "127.0.0.1", "--port", str(port), "--num-cpus", "2"]
    quiet = ["--include-dashboard", "false", "--object-store-memory", str(128 << 20), "--block"]
    head = spawn([sys.executable, "-m", "ray.scripts.scripts", *command, *quiet], folder / "ray.log", environment, "ray")
    try:
        wait_until(lambda: "Ray runtime started" in (folder / "ray.log").read_text(), START_S, "Ray", [head])
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate(30.0)


def await_ready(url: str, name: str, children: dict[str, Child]) -> None:
    """Wait until a part says that it is ready; it then is live, too, and shows its metrics."""
    wait_until(lambda: answers(f"{url}/readyz"), START_S, name, list(children.values()))
    assert answers(f"{url}/livez")
    assert "onerec_" in httpx.get(f"{url}/metrics", timeout=5.0).text


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def started(run: Path, environment: dict[str, str], ray: str, ports: dict[str, int]) -> Iterator[dict[str, Child]]:
    """All parts, each by its own command, at its own port."""
    children: dict[str, Child] = {}
    with ExitStack() as ending:
        for name, module in (SERVICES | WORKERS).items():
            where = ["--host", "127.0.0.1", "--port" if name in SERVICES else "--metrics-port", str(ports[name])]
            more = {"RAY_ADDRESS": ray} if name == "rollout" else {}
            command = [sys.executable, "-m", module, "--run-folder", str(run), *where]
            children[name] = spawn(command, run.parent / f"{name}.log", environment | more, name)
            ending.callback(children[name].terminate, 20.0)
        yield children


@pytest.mark.timeout(600)  # a dozen processes that each load torch or Ray, on two cores
def test_the_loop_closes_when_each_part_is_started_by_itself(tmp_path: Path, kafka: str, redis_url: str) -> None:
    run, ports = tmp_path / "run", {name: free_port() for name in SERVICES | WORKERS}
    made = init(run, kafka, ports["reward"])
    assert made.returncode == 0, made.stderr
    before = files(run)
    assert init(run, kafka, ports["reward"]).returncode == 0
    assert files(run) == before

    secret = tmp_path / "redis-url"
    secret.write_text(redis_url)
    environment = CLEAN | {"ONEREC_REDIS__URL_FILE": str(secret), "OMP_NUM_THREADS": "1"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    with ray_cluster(tmp_path, environment) as ray, started(run, environment, ray, ports) as children:
        for name, port in ports.items():
            await_ready(f"http://127.0.0.1:{port}", name, children)
        assert onerec("replay", str(run / "log"), "--run-folder", str(run)).returncode == 0
        assert children["trainer"].wait(START_S) == 0, children["trainer"].log_tail()
        for name in children.keys() - {"trainer"}:
            os.kill(children[name].pid, signal.SIGTERM)
        for child in children.values():
            assert child.wait(60.0) == 0, child.log_tail()
    last = json.loads((run / "trainer_stats.jsonl").read_text().splitlines()[-1])
    assert last["counters"]["requests.sent"] > 0
    assert (run / "rollout_stats.jsonl").read_text()
