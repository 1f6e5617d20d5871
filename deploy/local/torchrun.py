"""Starting a worker on several ranks of this machine: torchrun starts them, and ends all of them when one dies."""

from __future__ import annotations

import sys

from deploy.local.processes import LEASH

ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "lo"}
"""The ranks talk to each other over loopback."""


def on_ranks(program: list[str], ranks: int) -> list[str]:
    """The command that runs ``program`` on so many ranks; for a single one, the program itself.

    The ranks meet on a free port of torchrun's choice. It passes SIGTERM on to them and gives them 30 s to end. Each has a
    session of its own, and therefore a leash of its own: it dies with torchrun, also when that is killed.
    """
    if ranks == 1:
        return program
    meeting = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(ranks), "--no-python"]
    leash = [sys.executable, "-I", "-S", str(LEASH), "0"]
    return [sys.executable, "-m", "torch.distributed.run", *meeting, *leash, *program]
