"""The training benchmark at a small scale: its steps train, and its figures agree with each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import train_v1
from benchmarks.train import VARIANTS, Bench, Scale, Variant, full_inputs, measure
from common.policy.flops_formula import flops_formula
from common.settings import load_settings

SMALL = ("policy.d_model=16", "policy.heads=2", "policy.ffn=16", "policy.codes=8", "policy.lifelong_length=0")


def test_a_small_run_measures_every_variant_side_by_side() -> None:
    scale = Scale("demo", contexts=4, targets=2, runs=3, overrides=SMALL)
    result = measure("train", scale, lambda _: None, VARIANTS[:2])
    details = result.details
    assert set(details["variants"]) == {"eager fp32", "eager bf16"}
    assert details["ours"] in details["variants"]
    assert result.ratio is not None
    assert result.ratio >= 1
    settings = load_settings("demo", list(SMALL)).policy
    assert details["flops_per_step"] == 3 * flops_formula(settings).forward(full_inputs(settings, 4), [2] * 4)
    by_module = [gflops for part in details["gflops_per_target"].values() for gflops in part.values()]
    assert sum(by_module) * 4 * 2 * 1e9 == pytest.approx(details["flops_per_step"])
    for figures in details["variants"].values():
        assert len(figures["seconds"]) == 3
        assert 0 < figures["utilisation"] < 1
    assert result.floor is not None
    assert result.floor.value < result.value


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # by torch's own compiler
def test_what_the_compiler_cannot_do_is_told_and_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_step = Bench.step_s

    def without_compiler(bench: Bench, variant: Variant) -> float:
        if variant.compiled:
            raise RuntimeError("no C++ compiler\nsecond line")
        return measure_step(bench, variant)

    monkeypatch.setattr(Bench, "step_s", without_compiler)
    result = measure("train", Scale("demo", contexts=2, targets=1, runs=1, overrides=SMALL), lambda _: None)
    assert result.details["not_run"] == dict.fromkeys(["compiled fp32", "compiled bf16"], "no C++ compiler")
    assert set(result.details["variants"]) == {"eager fp32", "eager bf16"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="would run for minutes")
def test_large_profiles_are_refused_without_a_gpu() -> None:
    with pytest.raises(ValueError, match=r"train-v1.*v1-0\.935b.*needs a CUDA device"):
        train_v1.run(Path(), lambda _: None)
