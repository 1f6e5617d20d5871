"""``onerec train --replay-journal``: progress while an interval is retrained, and what came of it."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from trainer.retrain import Retrained, retrain


def retrain_and_tell(run: Path, into: Path | None, first: int | None, last: int | None) -> int:
    """Retrain and print one line; the exit code: 0 if all is bit for bit the same, 1 if not.

    Raises:
        ValueError, StreamError: as `trainer.retrain.retrain`.
    """
    with ExitStack() as leaving:
        target = into or Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix="onerec-"))) / "run"
        found = _with_progress(run, target, first, last)
    different = found.differences()
    state = found.recorded.state
    told = f"step {state.step}, {state.counters.get('sessions.consumed', 0):,} sessions consumed"
    if different:
        Console().print(f"DIFFERENT from what was recorded at {told}: {', '.join(different)}", soft_wrap=True)
        return 1
    Console().print(f"bit for bit as recorded: {told}", soft_wrap=True)
    return 0


def _with_progress(run: Path, target: Path, first: int | None, last: int | None) -> Retrained:
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("retraining", total=None)

        def on_step(step: int, end: int) -> None:
            progress.update(bar, total=end, completed=step)

        return retrain(run, target, first, last, on_step)
