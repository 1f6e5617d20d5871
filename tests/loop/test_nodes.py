"""The trainer as Kubernetes starts it: each rank under a torchrun of its own, which meet at the first one's address."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.local.processes import Child, free_port, spawn
from tests.loop.test_parts import CLEAN, START_S, await_ready, onerec
from tests.loop.up import UNTRAINED

RANKS = 2
SMALL = ("--set", f"trainer.ranks={RANKS}", "--set", "simulator.users=30", "--set", "rl.rate=0")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ranks_on_nodes_of_their_own_carry_a_run_to_its_end(tmp_path: Path, kafka: str, redis_url: str) -> None:
    run, meeting, ports = tmp_path / "run", free_port(), [free_port() for _ in range(RANKS)]
    where = ["--run-folder", str(run), "--kafka", kafka, "--reward", "http://127.0.0.1:1"]
    assert onerec("init", "--profile", "test", *where, *UNTRAINED, *SMALL).returncode == 0
    environment = CLEAN | {"ONEREC_REDIS__URL": redis_url, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    meet = [f"--nnodes={RANKS}", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={meeting}"]
    ranks: dict[str, Child] = {}
    with ExitStack() as ending:
        for rank, port in enumerate(ports):
            node = [sys.executable, "-m", "torch.distributed.run", *meet, f"--node-rank={rank}"]
            worker = ["-m", "trainer", f"--run-folder={run}", "--host=127.0.0.1", f"--metrics-port={port}"]
            ranks[f"rank {rank}"] = spawn([*node, *worker], tmp_path / f"{rank}.log", environment, f"rank {rank}")
            ending.callback(ranks[f"rank {rank}"].terminate, 20.0)
        for name, port in zip(ranks, ports, strict=True):
            await_ready(f"http://127.0.0.1:{port}", name, ranks)
        assert onerec("replay", str(run / "log"), "--run-folder", str(run)).returncode == 0
        for child in ranks.values():
            assert child.wait(START_S) == 0, child.log_tail()
    last = json.loads((run / "trainer_stats.jsonl").read_text().splitlines()[-1])
    replayed = json.loads((run / "replay.json").read_text())["ends"]
    assert last["counters"]["sessions.consumed"] == sum(end + 1 for end in replayed.values())
