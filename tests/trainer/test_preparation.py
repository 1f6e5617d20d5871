"""A step that is prepared ahead is the step that is prepared when its turn comes."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import astuple
from pathlib import Path

import pytest
import torch

from common.features import PolicyInputs
from tests.trainer.test_batches import record
from tests.trainer.test_resume import EmptyLog
from tests.trainer.tiny_run import TinyRun, grown_index, stream_sessions
from trainer import feature_process
from trainer.parallel import Ranks
from trainer.preparation import Cut, Preparation, Prepared
from trainer.resume import OpenRun, open_run


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[OpenRun]:
    settings = ("stream.partitions=1", "trainer.micro_batch=2", "policy.lifelong_length=4", "policy.lifelong_queries=2")
    run = TinyRun.make(tmp_path / "run", "", *settings, topics=False)
    opened = open_run(run.folder, run.settings, Ranks(), EmptyLog())
    with closing(opened.indexes), closing(opened.history):
        yield opened


def cut(first: int, count: int) -> Cut:
    records = [record(first + n, one) for n, one in enumerate(stream_sessions(40)[first : first + count])]
    return Cut(records, {0: (first, first + count)})


def both(opened: OpenRun, preparation: Preparation, sessions: Cut) -> tuple[Prepared, list[PolicyInputs]]:
    """A step prepared ahead, and its features as they would be made here."""
    featurizer = opened.indexes.featurizer(opened.indexes.current.version)
    assert featurizer is not None
    ahead = preparation.ahead(sessions, featurizer)
    pieces = opened.run.training.micro_batches(ahead.batch.samples)
    return ahead, [featurizer([sample.context for sample in piece]) for piece in pieces]


def equal(made: list[PolicyInputs], expected: list[PolicyInputs]) -> bool:
    def tensors(inputs: list[PolicyInputs]) -> list[torch.Tensor]:
        pathways = [p for one in inputs for p in (one.short, one.positive, one.lifelong) if p]
        return [one.static for one in inputs] + [tensor for p in pathways for tensor in astuple(p)]

    pairs = list(zip(tensors(made), tensors(expected), strict=True))
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def test_features_made_in_the_other_process_are_those_made_here_also_by_a_newer_index(opened: OpenRun) -> None:
    with closing(Preparation(opened)) as preparation:
        for version in (1, 2):
            if version == 2:
                grown_index(2).save(opened.indexes.folder / "000002")
                opened.indexes.go_to(2)
            ahead, expected = both(opened, preparation, cut(16 * version - 16, 16))
            assert len(expected) > 2
            assert equal(ahead.inputs(), expected)


def test_several_steps_may_be_under_way_and_each_gets_its_own(opened: OpenRun) -> None:
    with closing(Preparation(opened)) as preparation:
        steps = [both(opened, preparation, cut(8 * k, 8)) for k in range(4)]
        for ahead, expected in reversed(steps):
            assert equal(ahead.inputs(), expected)


def test_a_step_without_samples_has_no_features_and_starts_no_process(opened: OpenRun) -> None:
    with closing(Preparation(opened)) as preparation:
        ahead, expected = both(opened, preparation, Cut([], {}))
        assert ahead.inputs() == expected == []
        assert preparation._process is None


def test_a_process_that_was_killed_costs_one_step_its_head_start(
    opened: OpenRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Preparation(opened)) as preparation, caplog.at_level(logging.WARNING):
        ahead, _ = both(opened, preparation, cut(0, 8))
        ahead.inputs()
        process = preparation._process
        assert process
        os.kill(process.pid, signal.SIGSTOP)  # it takes the question and does not answer
        with monkeypatch.context() as patched:
            patched.setattr(feature_process, "TIMEOUT_S", 0.1)
            ahead, expected = both(opened, preparation, cut(8, 8))
            assert equal(ahead.inputs(), expected)
        assert "features are made in the trainer, this once" in caplog.text
        caplog.clear()
        ahead, expected = both(opened, preparation, cut(16, 8))
        assert equal(ahead.inputs(), expected)
        assert not caplog.records
