"""The loop as containers start it: `onerec init`, then every part by itself, with its own host and ports, on servers that
are there already, the rollout actors on a Ray cluster that is there already."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

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
SERVICES = {"reward": "reward_service", "recommend": "rollout.recommend"}


def onerec(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.cli.main", *arguments]
    return subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=START_S, check=False)


def init(folder: Path, kafka: str, reward_port: int, *more: str) -> subprocess.CompletedProcess[str]:
    where = ["--run-folder", str(folder), "--kafka", kafka, "--reward", f"http://127.0.0.1:{reward_port}"]
    return onerec("init", "--profile", "test", *where, *UNTRAINED, "--set", "simulator.users=30", *more)


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


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0).status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Callable[[], bool], what: str, children: dict[str, Child]) -> None:
    wait_until(condition, START_S, what, list(children.values()))


def test_the_loop_closes_when_each_part_is_started_by_itself(tmp_path: Path, kafka: str, redis_url: str) -> None:
    run, ports = tmp_path / "run", {name: free_port() for name in (*WORKERS, *SERVICES)}
    secret = tmp_path / "redis-url"
    secret.write_text(redis_url)
    made = init(run, kafka, ports["reward"])
    assert made.returncode == 0, made.stderr
    before = files(run)
    assert init(run, kafka, ports["reward"]).returncode == 0
    assert files(run) == before

    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    environment = CLEAN | token | {"ONEREC_REDIS__URL_FILE": str(secret), "OMP_NUM_THREADS": "1"}
    with ExitStack() as ending, ray_cluster(tmp_path, environment) as address:
        children: dict[str, Child] = {}

        def start(name: str, module: str, *arguments: str, **more: str) -> None:
            command = [sys.executable, "-m", module, "--run-folder", str(run), "--host", "127.0.0.1", *arguments]
            children[name] = spawn(command, tmp_path / f"{name}.log", environment | more, name)
            ending.callback(children[name].terminate, 20.0)

        for name, module in SERVICES.items():
            start(name, module, "--port", str(ports[name]))
        for name, module in WORKERS.items():
            more = {"RAY_ADDRESS": address} if name == "rollout" else {}
            start(name, module, "--metrics-port", str(ports[name]), **more)
        probes = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        for name, url in probes.items():
            until(lambda url=url: answers(f"{url}/readyz"), name, children)  # type: ignore[misc]
            assert answers(f"{url}/livez")
            assert "onerec_" in httpx.get(f"{url}/metrics", timeout=5.0).text
        assert {json.loads((run / "ready" / f"{name}.json").read_text())["metrics"] for name in WORKERS} == {
            f"{probes[name]}/metrics" for name in WORKERS
        }

        assert onerec("replay", str(run / "log"), "--run-folder", str(run)).returncode == 0
        assert children["trainer"].wait(START_S) == 0, children["trainer"].log_tail()
        lines = [json.loads(line) for line in (run / "trainer_stats.jsonl").read_text().splitlines()]
        assert lines[-1]["counters"]["requests.sent"] > 0
        assert (run / "rollout_stats.jsonl").read_text()
        for name in ("learner", "tokenizer", "rollout", "recommend", "reward"):
            os.kill(children[name].pid, signal.SIGTERM)
            assert children[name].wait(60.0) == 0, children[name].log_tail()
