"""Two ranks as torchrun would start them: a function of a module with what each saved, or any program."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120.0
Process = subprocess.Popen[bytes]


def start_two_ranks(command: list[str], log: Path | None = None) -> list[Process]:
    """Ranks 0 and 1 of a program; with ``log``, rank n writes to ``log``-n."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in (0, 1):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        output = log.with_name(f"{log.name}-{rank}").open("wb") if log else None
        processes.append(subprocess.Popen(command, env=os.environ | place | threads, cwd=ROOT, stderr=output))
        if output:
            output.close()
    return processes


def await_both(processes: list[Process], timeout_s: float = TIMEOUT_S) -> list[int]:
    """The exit statuses; neither rank is left running."""
    try:
        return [process.wait(timeout_s) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_on_two_ranks(function: str, folder: Path) -> list[dict[str, Tensor]]:
    """Call ``module:name``(folder) on ranks 0 and 1; the tensors that each wrote to ``rank-<n>.pt``."""
    module, _, name = function.partition(":")
    call = f"import sys; from pathlib import Path; from {module} import {name}; {name}(Path(sys.argv[1]))"
    assert await_both(start_two_ranks([sys.executable, "-c", call, str(folder)])) == [0, 0]
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
