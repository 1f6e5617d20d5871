from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.dashboard.figures import FigureReader, Figures
from deploy.local.run_folder import RunFolder
from tests.deploy.dashboard.recorded import group_line, step_line, write_lines

NOW_MS = 1_700_000_000_000


def test_a_run_that_has_not_begun_knows_nothing(tmp_path: Path) -> None:
    figures = FigureReader(RunFolder(tmp_path)).read()
    told = figures.model_dump(exclude={"rates", "courses"}, exclude_defaults=True)
    assert told == {}
    assert set(figures.rates.values()) == {None}
    assert set(map(len, figures.courses.values())) == {0}


def test_figures_are_those_of_the_last_step_and_groups(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    reader = FigureReader(run)
    write_lines(run, "trainer_stats.jsonl", [group_line(1, lag=3), step_line(1, NOW_MS)])
    assert reader.read().step == 1
    write_lines(run, "trainer_stats.jsonl", [group_line(2, legal_share=None), step_line(2, NOW_MS + 1000)])
    write_lines(run, "rollout_stats.jsonl", [{"time_ms": NOW_MS, "actor": "rollout-1", "version": 5, "requests": 3}])
    figures = reader.read()
    assert (figures.step, figures.sessions, figures.kept, figures.trained) == (2, 8, 4, 1)
    assert figures.dropped == {"stale": 1}
    assert figures.loss == pytest.approx((4.9 + 4.8) / 2)
    assert (figures.staleness, figures.worst_staleness, figures.legality) == (1.5, 3, 0.25)
    assert figures.actors == {"rollout-1": 5}
    assert figures.courses["staleness"] == [(0.5, 3.0), (1.5, 0.0)]


def test_a_line_that_is_still_being_written_is_read_once_it_is_whole(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    reader = FigureReader(run)
    whole = json.dumps(step_line(1, NOW_MS)) + "\n"
    path = tmp_path / "trainer_stats.jsonl"
    path.write_text(whole[:40])
    assert reader.read().step is None
    path.write_text(whole)
    assert reader.read().step == 1
    assert reader.read() == reader.read()


def test_a_step_without_targets_tells_no_loss(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_lines(run, "trainer_stats.jsonl", [step_line(1, NOW_MS, targets=0, loss_per_level=[])])
    figures = FigureReader(run).read()
    assert isinstance(figures, Figures)
    assert figures.loss is None
    assert figures.courses["loss"] == []
