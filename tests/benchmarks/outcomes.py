"""Outcomes of arms as if they had been trained, and what a result made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from benchmarks.arms import Outcome
from benchmarks.harness import BenchResult


def outcome(size: int, loss: float, seed: int = 0, violation: float = 0.0) -> Outcome:
    """One whose users all have the same loss."""
    return Outcome(
        key="",
        arm=f"of {size}",
        seed=seed,
        size=size,
        loss_per_level=[loss / 2, loss / 2],
        users=[loss] * 20,
        curve=[2 * loss, loss],
        violation=[3.0, 3.0, violation],
        held_out_violation=violation,
        seconds=1.0,
        commit="abc",
    )


def holds(result: BenchResult) -> list[bool]:
    """Of every claim, in order."""
    return [claim.holds for claim in result.details["claims"]]


def drawn(plot: Callable[[Any, BenchResult], bool], result: BenchResult) -> bool:
    """Whether the plot has curves."""
    axes = Figure().add_subplot()
    return plot(axes, result) and bool(axes.lines)
