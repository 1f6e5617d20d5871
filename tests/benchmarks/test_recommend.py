from __future__ import annotations

from benchmarks.open_load import SOURCES, Answered
from benchmarks.recommend import Measured, Run, Scale, compare


def answered(p99_ms: float, generated: int, failed: int = 0) -> Run:
    outcomes = {"generated": generated, "cached": 10, "status 500": failed}
    told = Answered(outcomes=outcomes, latency_ms={"p99": p99_ms}, seconds=2.0, client_cores=0.1)
    return Run(rate=100.0, answered=told, batch=2.0, service_cores=1.0)


def test_claims_follow_from_the_loads() -> None:
    found = Measured(engine=[50.0, 60.0], saturated=[answered(300, 90), answered(300, 60)])
    found.busy, found.overload = answered(499, 70), answered(501, 80, failed=1)
    assert (found.saturation, found.ratios) == (37.5, [0.9, 0.5])
    assert [claim.holds for claim in found.claims()] == [False, True, False, False]
    assert found.overload.answered.dropped == 1


def test_a_small_endpoint_is_loaded_and_measured() -> None:
    scale = Scale(
        profile="",
        overrides=["policy.d_model=16", "policy.ffn=32", "policy.codes=64"],
        items=200,
        topics=5,
        events=20,
        users={4: 6},
        runs=1,
        run_s=0.1,
        load_s=0.1,
    )
    result = compare(scale, lambda _: None)
    assert result.rival is not None
    assert result.value > 0
    (measured,) = result.details["beams"].values()
    assert set(measured["overload"]["answered"]["outcomes"]) <= set(SOURCES)
