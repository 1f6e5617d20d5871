"""``onerec train --replay`` and ``--replay-journal``: progress while an interval is retrained, and what came of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.harness import commit
from deploy.local.run_folder import RunFolder
from deploy.local.statistics import RunStatistics
from trainer.bundle import Bundle, BundleManifest
from trainer.recorded_log import ReplayedLog
from trainer.retrain import OnStep, Retrained, check_free, replay, retrain

TIMEOUT_S = 30.0
SHOWN = 8
"""Tensors that are named when more of them differ."""
Line = dict[str, Any]


def replay_and_tell(path: Path, into: Path | None, kafka: str = "", prefix: str = "") -> int:
    """Train a bundle's interval, print how it compares; the exit code: 0 if all is bit for bit the same, 1 if not.

    With ``kafka`` the records come from the topics there on which the bundle's were put, otherwise from the bundle.

    Raises:
        ValueError: the bundle is cut or altered, or ``into`` is taken.
        StreamError: the topics do not hold the interval.
    """
    bundle = Bundle.open(path)
    if into is not None:
        check_free(into)
    Console(stderr=True).print(_origin(bundle.manifest), highlight=False, soft_wrap=True)
    log = ReplayedLog(path, kafka, prefix, TIMEOUT_S) if kafka else None
    return _tell(path, into, lambda target, on_step: replay(bundle, target, on_step, log))


def retrain_and_tell(run: Path, into: Path | None, first: int | None, last: int | None) -> int:
    """The same for the steps between two checkpoints of a run whose broker is there.

    Raises:
        ValueError, StreamError: as `trainer.retrain.retrain`.
    """
    return _tell(run, into, lambda target, on_step: retrain(run, target, first, last, on_step))


def _origin(manifest: BundleManifest) -> str:
    """What was recorded, by what, and by what it is trained now; `trainer.resume` warns of each difference that matters."""
    counts = f"{manifest.sessions:,} session records, {manifest.groups:,} group records"
    made = f"torch {manifest.torch}, {manifest.threads} thread(s), {manifest.machine}, bundled by commit {manifest.commit}"
    return f"steps {manifest.first} to {manifest.last} of {manifest.run}: {counts}; {made}; this is commit {commit()}"


def _tell(recorded: Path, into: Path | None, train: Callable[[Path, OnStep], Retrained]) -> int:
    with ExitStack() as leaving:
        target = into or Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix="onerec-"))) / "run"
        found = _with_progress(target, train)
        table = _comparison(recorded, target)
    different = found.differences()
    state = found.recorded.state
    told = f"step {state.step}, {state.counters.get('sessions.consumed', 0):,} sessions consumed"
    verdict = f"bit for bit as recorded: {told}"
    if different:
        more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        verdict = f"DIFFERENT from what was recorded at {told}: {', '.join(different[:SHOWN])}{more}"
    console = Console()
    console.print(verdict, highlight=False, soft_wrap=True)
    console.print(table)
    return 1 if different else 0


def _with_progress(target: Path, train: Callable[[Path, OnStep], Retrained]) -> Retrained:
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("retraining", total=None)

        def on_step(step: int, end: int) -> None:
            progress.update(bar, total=end, completed=step)

        return train(target, on_step)


def _comparison(recorded: Path, again: Path) -> Table:
    """What the run measured in the steps that were trained again, beside what was measured now."""
    replayed = _statistics(again)
    steps = {line["step"] for line in replayed.steps}
    table = Table("", "recorded", "replayed", title=f"{len(steps):,} steps", title_justify="left")
    columns = [_figures(statistics, steps) for statistics in (_statistics(recorded), replayed)]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _statistics(folder: Path) -> RunStatistics:
    statistics = RunStatistics(RunFolder(folder))
    statistics.refresh()
    return statistics


def _figures(statistics: RunStatistics, steps: set[int]) -> dict[str, str]:
    lines = [line for line in statistics.steps if line["step"] in steps]
    groups = [line for line in statistics.groups if line["step"] in steps]
    trained = [line for line in groups if line["outcome"] == "trained"]
    targets = sum(line["targets"] for line in lines)
    return {
        "next-token loss per target": _mean([sum(line["loss_per_level"]) * line["targets"] for line in lines], targets),
        "preference loss per step": _mean([line["preference_loss"] for line in lines], len(lines)),
        "groups trained, dropped": f"{len(trained):,}, {len(groups) - len(trained):,}",
        "legality of trained groups": _mean_of(trained, "legal_share"),
        "mean reward of trained groups": _mean_of(trained, "mean_reward"),
    }


def _mean_of(lines: list[Line], key: str) -> str:
    values = [line[key] for line in lines if line.get(key) is not None]
    return _mean(values, len(values))


def _mean(values: list[float], count: int) -> str:
    return f"{sum(values) / count:.6f}" if count else "-"
