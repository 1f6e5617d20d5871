"""What the report is made of: one JSON line per step and per settled group in ``trainer_stats.jsonl``.

Steps that are executed again after a crash write their lines again; readers take the last line of a step and the first of
a group. Of several ranks, rank 0 writes what all of them did; each shows its own part on its metrics endpoint.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from common.durable import drop_torn_line
from common.policy.peak import peak
from trainer.groups import Judgement
from trainer.metrics import TrainerMetrics
from trainer.resume import Run
from trainer.shares import Line, Share, merged
from trainer.step import StepMetrics


class Statistics:
    """Appends lines to the statistics file of a run, and shows this rank's share of it on the metrics endpoint."""

    def __init__(self, path: Path, run: Run) -> None:
        self._ranks = run.training.ranks
        self._file = path.open("a", encoding="utf-8") if self._ranks.leads else None
        if self._file:
            drop_torn_line(path)
        self._peak = peak(run.training.parameters[0].device)
        self._metrics = TrainerMetrics(self._peak)
        self._metrics.begin(run)

    def step(self, run: Run, metrics: StepMetrics, judgements: list[Judgement], seconds: float, lag: dict[int, int]) -> None:
        """Write a finished step and the groups that it settled. Counters are totals of the run so far.

        With several ranks a collective. Seconds and the filter's median are those of rank 0.

        The share of the device's peak that the model's operations took (MFU) is of the whole step: consuming, filtering and
        publishing count as time, waiting for sessions does not.

        Args:
            seconds: how long the step took.
            lag: sessions in the log that are not consumed yet, per partition.
        """
        self._metrics.show(run, metrics, judgements, seconds, lag, metrics.flops / (seconds * self._peak.rate))
        now_ms = time.time_ns() // 1_000_000
        shares = [Share.read(data) for data in self._ranks.collect(Share.of(run, metrics, judgements, now_ms).to_bytes())]
        if self._file is None:
            return
        whole, peak_rate = merged(shares), self._peak.rate * self._ranks.world
        step: Line = (
            {"kind": "step", "step": run.step, "time_ms": now_ms, "seconds": seconds, "version": run.staleness.newest}
            | {"index_version": run.index_version}
            | {"outstanding": whole.outstanding, "filter_median_ms": run.filter_median_ms}
            | asdict(whole.metrics)
            | {"utilisation": whole.metrics.flops / (seconds * peak_rate), "peak_flops": peak_rate}
            | {"peak_source": self._peak.source, "counters": whole.counters}
        )
        self._file.writelines(json.dumps(line) + "\n" for line in [*whole.groups, step])
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def __enter__(self) -> Statistics:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
