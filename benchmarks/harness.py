"""What every benchmark shares: the result it gives, fair timing of two rivals, and the machine's measured rates."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

MACHINE_CPU = Path("/proc/cpuinfo")


def commit() -> str:
    """Hash of the sources' commit, with ``-dirty`` when tracked files differ from it; ``unknown`` outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        told = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return told.stdout.strip()


def machine() -> str:
    """CPU model, cores this process may use, torch build and its threads."""
    lines = MACHINE_CPU.read_text().splitlines() if MACHINE_CPU.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores, torch {torch.__version__}, {torch.get_num_threads()} threads"


class Floor(BaseModel):
    """A lower bound of the value, in the value's unit, counted from what any solution must do."""

    value: float
    what: str


class Claim(BaseModel):
    """One sentence that the figures confirm or refute; ``details["claims"]`` of a result is a list of them."""

    claim: str
    holds: bool
    figures: dict[str, Any]


class BenchResult(BaseModel):
    """What a benchmark found. ``benchmarks/README.md`` explains every key."""

    model_config = ConfigDict(extra="forbid")

    name: str
    value: float
    """Ours, in ``unit``."""
    unit: str
    rival: float | None = None
    ratio: float | None = None
    """Ours over the rival's, oriented so that better is above 1."""
    spread: tuple[float, float] | None = None
    """Least and largest ratio over the runs (or seeds)."""
    floor: Floor | None = None
    commit: str = Field(default_factory=commit)
    machine: str = Field(default_factory=machine)
    details: dict[str, Any] = {}


@dataclass(frozen=True)
class Race:
    """Seconds of each run of two rivals; run k of one stands beside run k of the other."""

    ours: list[float]
    rival: list[float]

    @property
    def value(self) -> float:
        """Our median, seconds."""
        return statistics.median(self.ours)

    @property
    def rival_value(self) -> float:
        """The rival's median, seconds."""
        return statistics.median(self.rival)

    @property
    def ratio(self) -> float:
        """How many times faster we are, by medians."""
        return self.rival_value / self.value

    @property
    def spread(self) -> tuple[float, float]:
        """Least and largest ratio of two runs that stood beside each other; ``ratio`` is within."""
        ratios = [theirs / ours for ours, theirs in zip(self.ours, self.rival, strict=True)]
        return min(ratios), max(ratios)


def race(ours: Callable[[], object], rival: Callable[[], object], runs: int = 5, *, warm_up: bool = True) -> Race:
    """Time two functions side by side: they alternate, and so does who goes first, so that a slower minute hits both.

    ``warm_up`` calls each once before, unmeasured.
    """
    assert runs >= 1, f"runs must be at least 1, got {runs}"
    if warm_up:
        ours()
        rival()
    measured = Race([], [])
    for run in range(runs):
        turns = [(ours, measured.ours), (rival, measured.rival)]
        for function, times in turns if run % 2 == 0 else reversed(turns):
            times.append(seconds(function))
    return measured


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def product_rate(rows: int, inner: int, columns: int, runs: int = 5) -> float:
    """Measured float32 operations per second (2 per multiply-add) of (rows, inner) @ (inner, columns), the best run."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand(rows, inner, generator=generator), torch.rand(inner, columns, generator=generator)
    out = torch.empty(rows, columns)
    best = min(seconds(lambda: torch.mm(left, right, out=out)) for _ in range(runs + 1))  # the first one warms up
    return 2.0 * rows * inner * columns / best


def copy_rate(size: int = 1 << 28, runs: int = 5) -> float:
    """Measured bytes copied per second (each read once and written once) in blocks of ``size`` bytes, the best run."""
    source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    return size / min(seconds(lambda: target.copy_(source)) for _ in range(runs + 1))
