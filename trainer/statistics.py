"""What the report is made of: one JSON line per step and per settled group in ``trainer_stats.jsonl``.

Steps that are executed again after a crash write their lines again; readers take the last line of a step.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from common.policy.peak import peak
from trainer.groups import Judgement, group_line
from trainer.metrics import TrainerMetrics
from trainer.resume import Run
from trainer.step import StepMetrics


class Statistics:
    """Appends lines to the statistics file of a run, and shows the same on the metrics endpoint."""

    def __init__(self, path: Path, run: Run) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._peak = peak(run.training.parameters[0].device)
        self._metrics = TrainerMetrics(self._peak)
        self._metrics.begin(run)

    def step(self, run: Run, metrics: StepMetrics, judgements: list[Judgement], seconds: float, lag: dict[int, int]) -> None:
        """Write a finished step and the groups that it settled. Counters are totals of the run so far.

        The share of the device's peak that the model's operations took (MFU) is of the whole step: consuming, filtering and
        publishing count as time, waiting for sessions does not.

        Args:
            seconds: how long the step took.
            lag: sessions in the log that are not consumed yet, per partition.
        """
        utilisation = metrics.flops / (seconds * self._peak.rate)
        now_ms = time.time_ns() // 1_000_000
        for judgement in judgements:
            version = judgement.group.parameter_version if judgement.group else -1
            self._write(group_line(judgement, run.step, run.staleness.lag(version), now_ms))
        self._write(
            {"kind": "step", "step": run.step, "time_ms": now_ms, "seconds": seconds, "version": run.staleness.newest}
            | {"index_version": run.index_version}
            | {"outstanding": len(run.frontier.outstanding), "filter_median_ms": run.session_filter.median}
            | asdict(metrics)
            | {"utilisation": utilisation, "peak_flops": self._peak.rate, "peak_source": self._peak.source}
            | {"counters": dict(run.counters)}
        )
        self._file.flush()
        self._metrics.show(run, metrics, judgements, seconds, lag, utilisation)

    def _write(self, line: dict[str, object]) -> None:
        self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Statistics:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
