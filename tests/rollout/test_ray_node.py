from __future__ import annotations

import pytest

from deploy.local.processes import free_port
from rollout.ray_node import ray_node


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(OSError, match=f"no Ray cluster at RAY_ADDRESS {address}"), ray_node(1.0):
        pass
