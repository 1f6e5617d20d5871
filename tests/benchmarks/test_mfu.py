from __future__ import annotations

from benchmarks.mfu import compare
from benchmarks.train import VARIANTS, Scale
from tests.benchmarks.test_train import SMALL


def test_the_fastest_variants_share_of_the_rate_is_judged() -> None:
    result = compare(Scale("demo", contexts=2, targets=1, runs=1, overrides=SMALL), lambda _: None, VARIANTS[:2])
    claim, details = result.details["claims"][0], result.details
    share = details["flops_per_step"] / (result.value * details["peak"]["rate"])
    assert abs(claim.figures["utilisation"] - share) < 1e-9
    assert claim.holds == (share >= 0.35)
