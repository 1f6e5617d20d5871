"""TensorBoard's event files, made from what the trainer wrote down: the trainer itself is neither slowed nor changed by it.

consumes:     the lines of ``trainer_stats.jsonl``
produces:     ``events.out.tfevents.*``, one event a step with a scalar for each figure
waits for:    nothing
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from tensorboardX import FileWriter
from tensorboardX.proto.summary_pb2 import Summary

from deploy.local.statistics import Line, Tail

TRAINED = "trained"


class EventFiles:
    """The event files of one run, in a folder that holds those of nothing else: earlier ones are replaced."""

    def __init__(self, statistics: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._lines = Tail(statistics)
        self._writer = FileWriter(str(folder))
        self._groups: list[Line] = []
        self.step = 0
        """The newest step that was written."""

    def update(self, on_step: Callable[[int], None] = lambda _: None) -> None:
        """Write the steps that ended since the last call; ``on_step`` is told each of them.

        Steps that a killed trainer executed again are written once: they are the same.
        """
        for line in self._lines.lines():
            if line["kind"] == "group":
                self._groups.append(line)
            elif line["kind"] == "step":
                groups, self._groups = self._groups, []
                if line["step"] > self.step:
                    self._write(line, groups)
                    on_step(self.step)
        self._writer.flush()

    def close(self) -> None:
        """End the files."""
        self._writer.close()

    def __enter__(self) -> EventFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _write(self, step: Line, groups: list[Line]) -> None:
        self.step = step["step"]
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars(step, groups)]
        self._writer.add_summary(Summary(value=values), self.step, step["time_ms"] / 1000)


def scalars(step: Line, groups: list[Line]) -> Iterator[tuple[str, float]]:
    """(name, value) of a step's line and the lines of the groups that it settled. What a step did not have is left out."""
    if step["targets"]:
        levels = step["loss_per_level"]
        yield from ((f"loss/level {level}", loss) for level, loss in enumerate(levels, 1))
        yield "loss/next token", sum(levels)
        yield "gradient norm/next token", step["sft_grad_norm"]
    if any(group["outcome"] == TRAINED for group in groups):
        yield "loss/preference", step["preference_loss"]
        yield "loss/format", step["format_loss"]
        yield "gradient norm/reinforcement", step["rl_grad_norm"]
        yield "ratio/clipped share", step["clipped_share"]
        yield "ratio/mean", step["mean_ratio"]
    if step["feedback_positive"] + step["feedback_negative"]:
        yield "loss/feedback", step["feedback_loss"]
    if step["max_violation"] is not None:
        yield "experts/load violation", step["max_violation"]
    yield from _of_groups(groups)
    yield "speed/step seconds", step["seconds"]
    yield "speed/utilisation", step["utilisation"]
    yield "version/parameters", step["version"]
    yield "version/item index", step["index_version"]
    yield "requests/outstanding", step["outstanding"]
    yield "sessions/filter median seconds", step["filter_median_ms"] / 1000
    yield from ((f"total/{name}", count) for name, count in step["counters"].items())


def _of_groups(groups: list[Line]) -> Iterator[tuple[str, float]]:
    """Means over the groups of a step that have the figure."""
    for name, key in (
        ("groups/legality", "legal_share"),
        ("groups/reward", "mean_reward"),
        ("groups/staleness versions", "lag"),
        ("groups/parity error", "parity_error"),
    ):
        values = [group[key] for group in groups if group.get(key) is not None]
        if values:
            yield name, sum(values) / len(values)
