"""Reads what the workers of a run write down while it goes on: for the live view, and for the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.local.run_folder import RunFolder

Line = dict[str, Any]


class Tail:
    """Reads the lines of a growing file, each once and only when it is whole.

    A writer that was killed, or whose disk was full, may leave a part of a line, which the next one's first line follows:
    what is no JSON is left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0

    def lines(self) -> Iterator[Line]:
        """The lines that were completed since they were last asked for."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                try:
                    whole = json.loads(line)
                except ValueError:
                    continue
                yield whole


class RunStatistics:
    """Steps, settled groups and generated batches of a run.

    A trainer that was killed executes the steps behind its checkpoint again and writes their lines again. Of a step the last
    line counts, of a group the first: it says how long the group took without the outage, and has its parity, which is not
    computed again.
    """

    def __init__(self, run: RunFolder) -> None:
        self._trainer = Tail(run.path / "trainer_stats.jsonl")
        self._rollout = Tail(run.path / "rollout_stats.jsonl")
        self._steps: dict[int, Line] = {}
        self._groups: dict[tuple[Any, ...], Line] = {}
        self.batches: list[Line] = []

    def refresh(self) -> None:
        """Read what is new."""
        for line in self._trainer.lines():
            if line["kind"] == "step":
                self._steps[line["step"]] = line
            elif line["kind"] == "group":
                self._groups.setdefault(_identity(line), line)
        self.batches += self._rollout.lines()

    @property
    def steps(self) -> list[Line]:
        """One line per step, in order."""
        return [self._steps[step] for step in sorted(self._steps)]

    @property
    def last_step(self) -> Line:
        """The newest step's line; empty before the first."""
        return self._steps[max(self._steps)] if self._steps else {}

    @property
    def groups(self) -> list[Line]:
        """One line per settled group, in the order of their steps."""
        return sorted(self._groups.values(), key=lambda line: int(line["step"]))

    def outcomes(self) -> dict[str, int]:
        """How many groups ended how."""
        counts: dict[str, int] = {}
        for line in self._groups.values():
            counts[line["outcome"]] = counts.get(line["outcome"], 0) + 1
        return counts


def _identity(line: Line) -> tuple[Any, ...]:
    """A group is known by its record; a request that was given up has none."""
    return ("record", *line["record"]) if line["record"] else ("request", *line["request"])
