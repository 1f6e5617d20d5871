"""A training step in bf16 takes less time than in plain fp32, and with compiled blocks less still.

Timed are whole steps of the trainer (forward, backward, clipping, optimizer) on contexts whose pathways are full, made of
random ids; making features is left out. The variants share one policy and take turns, so that a slower minute hits all of
them. Ours is the fastest of them, its rival plain eager fp32. Runs on a GPU where there is one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import BenchResult, Claim, Floor, Race, seconds
from common.context import Context, UserEvents
from common.features import BUCKETS, LABEL_BITS, EventFeatures, Featurizer, PolicyInputs
from common.policy import Policy, build_policy
from common.policy.flops import TRAINING, Work, count_flops
from common.policy.peak import Peak, measured_peak, peak, synchronise
from common.settings import PolicySettings, Settings, load_settings
from trainer.step import SftSample, TrainingStep

Say = Callable[[str], None]
TAGS = 2
"""Of an item."""
WARM_UP = 2
"""Steps of each variant that are not measured."""


@dataclass(frozen=True)
class Scale:
    """One policy and its batch."""

    profile: str
    contexts: int
    targets: int
    """Of each context."""
    runs: int = 5
    overrides: tuple[str, ...] = ()
    """Settings that differ from the profile's, as ``key.sub=value``."""


@dataclass(frozen=True)
class Variant:
    """How a step is run."""

    name: str
    precision: str
    compiled: bool


VARIANTS = (
    Variant("eager fp32", "fp32", compiled=False),
    Variant("eager bf16", "bf16", compiled=False),
    Variant("compiled fp32", "fp32", compiled=True),
    Variant("compiled bf16", "bf16", compiled=True),
)
RIVAL = VARIANTS[0]


def run(data: Path, on_progress: Say) -> BenchResult:  # noqa: ARG001 - the contexts are synthetic
    """The demo's policy and batch; takes some minutes, most of them compiling."""
    return measure("train", Scale("demo", contexts=16, targets=8, runs=9), on_progress)


def require_gpu(name: str, profile: str) -> None:
    """Refuse to run for hours.

    Raises:
        ValueError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise ValueError(f"benchmark {name!r} trains profile {profile} and needs a CUDA device, got cpu; try 'train'")


def measure(name: str, scale: Scale, on_progress: Say, variants: tuple[Variant, ...] = VARIANTS) -> BenchResult:
    """The benchmark at any scale."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_progress(f"building {scale.profile} on {device.type}")
    bench = Bench(scale, device)
    if any(variant.compiled for variant in variants):
        compile_blocks(bench.training.policy)
    warm_up_s, not_run = bench.warm_up(variants, on_progress)
    ran = [variant for variant in variants if variant.name in warm_up_s]
    on_progress("timing")
    times: dict[str, list[float]] = {variant.name: [] for variant in ran}
    for k in range(scale.runs):
        for variant in ran[k % len(ran) :] + ran[: k % len(ran)]:
            times[variant.name].append(bench.step_s(variant))
    medians = {key: statistics.median(values) for key, values in times.items()}
    fastest = min(medians, key=medians.__getitem__)
    timed = Race(times[fastest], times[RIVAL.name])
    top, measured = peak(device), measured_peak(device)
    figures = {
        key: {
            "seconds": times[key],
            "targets_per_s": scale.contexts * scale.targets / median,
            "utilisation": bench.flops / (median * top.rate),
            "warm_up_s": warm_up_s[key],
        }
        for key, median in medians.items()
    }
    details = {
        "device": _device_name(device),
        "ours": fastest,
        "rival": RIVAL.name,
        "variants": figures,
        "not_run": not_run,
        "peak": asdict(top),
        "measured": asdict(measured),
        "flops_per_step": bench.flops,
        "gflops_per_target": gflops_per_target(bench.settings.policy, scale.targets),
        "claims": _claims(medians, bench.flops, top),
    }
    return BenchResult(
        name=name,
        value=timed.value,
        unit="seconds",
        rival=timed.rival_value,
        ratio=timed.ratio,
        spread=timed.spread,
        floor=Floor(value=bench.flops / measured.rate, what="the model's products x 3 at the measured product rate"),
        details=asdict(scale) | details,
    )


class Bench:
    """One policy in training, all of whose variants share weights and optimizer."""

    def __init__(self, scale: Scale, device: torch.device) -> None:
        self.settings, self.device = load_settings(scale.profile, list(scale.overrides)), device
        policy, generator = self.settings.policy, np.random.default_rng(0)
        inputs = full_inputs(policy, scale.contexts).to(device)
        codes = generator.integers(0, policy.codes, (scale.contexts, scale.targets, policy.levels))
        context = Context(0, 0, 0, {}, UserEvents.empty())
        self.samples = [SftSample(context, one) for one in codes]
        self.training = TrainingStep(build_policy(policy).to(device), ReadyFeatures(policy, inputs), self.settings)
        self.steps, self.flops = 0, 0

    def warm_up(self, variants: tuple[Variant, ...], on_progress: Say) -> tuple[dict[str, float], dict[str, str]]:
        """Seconds of each variant's first steps, in which it is compiled, and why others do not run here."""
        took, not_run = {}, {}
        for variant in variants:
            on_progress(f"warming up {variant.name}")
            try:
                took[variant.name] = sum(self.step_s(variant) for _ in range(WARM_UP))
            except RuntimeError as error:  # of the compiler: a machine may lack its tools
                if not variant.compiled:
                    raise
                not_run[variant.name] = str(error).partition("\n")[0]
        return took, not_run

    def step_s(self, variant: Variant) -> float:
        """How long one step takes."""
        self.training.settings = _with_precision(self.settings, variant.precision)
        synchronise(self.device)
        with _stance(variant):
            return seconds(self._step)

    def _step(self) -> None:
        self.flops = self.training.run(self.samples, [], self.steps).flops
        self.steps += 1
        synchronise(self.device)


class ReadyFeatures(Featurizer):
    """The same inputs for whatever contexts."""

    def __init__(self, policy: PolicySettings, inputs: PolicyInputs) -> None:
        self.policy, self.inputs = policy, inputs

    def __call__(self, contexts: list[Context]) -> PolicyInputs:
        """The inputs, of as many contexts."""
        assert len(contexts) == len(self.inputs.static)
        return self.inputs


def compile_blocks(policy: Policy) -> None:
    """Have the encoder's and the decoder's blocks compiled for fixed shapes when they are first run."""
    for block in [*policy.blocks, *getattr(policy, "encoder", ())]:
        block.compile(dynamic=False)


def full_inputs(policy: PolicySettings, rows: int) -> PolicyInputs:
    """Random inputs of contexts that have as many events as every pathway takes."""
    generator = torch.Generator().manual_seed(0)

    def ids(below: int, *shape: int) -> Tensor:
        return torch.randint(1, below, (rows, *shape), generator=generator)

    def pathway(length: int) -> EventFeatures:
        return EventFeatures(
            vid=ids(policy.item_buckets, length),
            author=ids(policy.author_buckets, length),
            tags=ids(policy.tag_buckets, length, TAGS),
            tag_weight=torch.full((rows, length, TAGS), 1 / TAGS),
            age=ids(BUCKETS, length),
            hour=ids(25, length),
            weekday=ids(8, length),
            play=ids(BUCKETS, length),
            duration=ids(BUCKETS, length),
            labels=ids(1 << LABEL_BITS, length),
            sids=ids(policy.codes + 1, length, policy.levels),
            leaf_size=torch.ones(rows, length),
            mask=torch.ones(rows, length, dtype=torch.bool),
        )

    static = torch.cat((ids(policy.user_buckets, 1), ids(policy.static_buckets, len(policy.static_fields))), 1)
    lifelong = pathway(policy.lifelong_length) if policy.lifelong_length else None
    return PolicyInputs(static, pathway(policy.short_length), pathway(policy.positive_length), lifelong)


def gflops_per_target(policy: PolicySettings, targets: int) -> dict[str, dict[str, float]]:
    """Training GFLOPs of one of ``targets`` items that share a full context, by what they are for and by module."""
    flops = count_flops(policy, targets)

    def shared(parts: dict[str, Work]) -> dict[str, float]:
        return {name: TRAINING * work.total / targets / 1e9 for name, work in parts.items()}

    return {"context": shared(flops.context), "targets": shared(flops.targets)}


def _claims(medians: dict[str, float], flops: int, top: Peak) -> list[Claim]:
    def faster(ours: str, rival: str) -> Claim:
        ratio = medians[rival] / medians[ours]
        return Claim(claim=f"{ours} is faster than {rival}", holds=ratio > 1, figures={"ratio": ratio})

    pairs = [("eager bf16", "eager fp32"), ("compiled fp32", "eager fp32"), ("compiled bf16", "eager bf16")]
    best = min(medians.values())
    share = Claim(
        claim="the peak is not exceeded",
        holds=flops / best <= top.rate,
        figures={"utilisation": flops / (best * top.rate)},
    )
    return [*(faster(ours, rival) for ours, rival in pairs if {ours, rival} <= medians.keys()), share]


def _with_precision(settings: Settings, precision: str) -> Settings:
    return settings.model_copy(update={"trainer": settings.trainer.model_copy(update={"precision": precision})})


def _stance(variant: Variant) -> AbstractContextManager[Any]:
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("default" if variant.compiled else "force_eager")
    return stance


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
