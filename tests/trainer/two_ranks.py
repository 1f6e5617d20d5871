"""Runs a function of a module on two ranks, as torchrun would start them, and collects what each saved."""

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


def run_on_two_ranks(function: str, folder: Path) -> list[dict[str, Tensor]]:
    """Call ``module:name``(folder) on ranks 0 and 1; the tensors that each wrote to ``rank-<n>.pt``."""
    module, _, name = function.partition(":")
    call = f"import sys; from pathlib import Path; from {module} import {name}; {name}(Path(sys.argv[1]))"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in (0, 1):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", call, str(folder)]
        processes.append(subprocess.Popen(command, env=os.environ | place | threads, cwd=ROOT))
    try:
        codes = [process.wait(TIMEOUT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0]
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
