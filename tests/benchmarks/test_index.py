from __future__ import annotations

import numpy as np
import pytest

from benchmarks import index as bench
from benchmarks.harness import Claim
from benchmarks.index_build import CODES, catalogue, peak_gib
from common.item_index import ItemIndex
from common.messages import NO_ITEM


def test_the_rival_gives_what_the_index_gives_and_half_of_the_keys_are_legal() -> None:
    index = ItemIndex.build(1, "bench", CODES, **catalogue(150_000))
    sids = bench._random_sids(index, 2000, seed=3)
    heads = index.head_items(sids)
    np.testing.assert_array_equal(bench._plain_head_items(index, sids), heads)
    assert 1000 <= (heads != NO_ITEM).sum() <= 1010


def test_a_small_run_measures_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "IDLE_S", 0.05)
    monkeypatch.setattr(bench, "AFTER_S", 0.05)
    result = bench.measure(items=2000, keys=bench.BATCH, rounds=1, on_progress=lambda _: None)
    assert result.rival is not None
    assert result.ratio == pytest.approx(result.rival / result.value)
    assert [swap["lookups_meanwhile"] > 0 for swap in result.details["swaps"]["swaps"]] == [True, True]
    assert 0 < result.details["build"]["peak_gib"] < 1
    assert set(result.details["million_keys_per_second"]) == {"head_items", "leaves", "is_legal", "rows"}
    assert len(result.details["claims"]) == 4


def test_claims_fail_when_the_figures_do() -> None:
    build = {"build_s": 100.0, "save_s": 21.0, "peak_gib": 4.1, "columns_gib": 3.0}
    others = {"stall_idle_ms": 1.0, "longest_ms": 30.0, "longest_idle_ms": 30.0}
    swaps = {"swaps": [{"stall_ms": ms, **others} for ms in (1.0, 10.0)]}
    claims: list[Claim] = bench._claims(build, {"head_items": {512: 0.5, 4096: 0.9}}, swaps)
    assert [claim.holds for claim in claims] == [False] * 4
    build = {"build_s": 98.0, "save_s": 21.0, "peak_gib": 3.9, "columns_gib": 3.0}
    swaps["swaps"].pop()
    claims = bench._claims(build, {"head_items": {512: 0.5, 4096: 1.1}}, swaps)
    assert [claim.holds for claim in claims] == [True] * 4


@pytest.mark.parametrize(
    ("sleeps", "stall_ms"),
    [
        (0, 30.0),  # only its own core matters
        (1, 20.0),  # slept: another core may have had the interpreter lock
    ],
)
def test_a_stall_is_what_an_iteration_takes_without_the_pauses_it_met(sleeps: int, stall_ms: float) -> None:
    one = bench._Iteration(1.0, 1.040, ran_ms=5.0, queued_ms=0.0, sleeps=sleeps, faults=0, core=1)
    pauses = {0: [(0.9, 1.015), (1.2, 1.3)], 1: [(1.010, 1.020)]}
    assert one.stall_ms(pauses) == pytest.approx(stall_ms)


def test_the_peak_is_of_this_process() -> None:
    assert 0.01 < peak_gib() < 64
