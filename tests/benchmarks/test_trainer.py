from __future__ import annotations

from benchmarks.trainer import Scale, Stream, compare
from common.settings import SimulatorSettings

SMALL = ("policy.d_model=16", "policy.heads=2", "policy.ffn=16")


def test_a_small_run_counts_the_steps_of_both() -> None:
    stream = Stream(simulator=SimulatorSettings(items=200, users=20, requests_per_user=20), days=1, codes=8)
    result = compare(Scale(streams={"demo": stream}, overrides=SMALL, runs=1), lambda _: None)
    assert result.details["seconds_a_step"]["demo"]["steps"] > 1
    assert result.rival is not None
    assert result.ratio is not None
    assert abs(result.ratio - result.value / result.rival) < 1e-9
    assert result.details["claims"][0].holds == (result.ratio >= 0.9)
