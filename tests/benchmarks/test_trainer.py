from __future__ import annotations

from benchmarks.trainer import Scale, compare
from common.settings import SimulatorSettings

SMALL = ("policy.d_model=16", "policy.heads=2", "policy.ffn=16", "policy.codes=8")


def test_a_small_run_counts_the_steps_of_both() -> None:
    scale = Scale(simulator=SimulatorSettings(items=200, users=20, requests_per_user=20), days=1, overrides=SMALL, runs=1)
    result = compare(scale, lambda _: None)
    assert result.details["steps"] > 1
    assert result.rival is not None
    assert result.ratio is not None
    assert abs(result.ratio - result.value / result.rival) < 1e-9
    assert result.details["claims"][0].holds == (result.ratio >= 0.9)
