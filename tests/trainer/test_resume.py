"""What a checkpoint can be carried across, asked of a run that is opened again."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from common.settings import Settings
from common.stream import LogReader
from tests.trainer.test_record_buffer import ListReader
from tests.trainer.tiny_run import TinyRun, tiny_settings
from trainer import checkpoint as ck
from trainer.checkpoint import CheckpointError, Identity
from trainer.parallel import Ranks
from trainer.resume import open_run

BOUND: dict[str, Any] = {
    "run": "another",
    "prefix": "another",
    "partitions": {"sessions": 1, "rollout-groups": 2},
    "logs": {"sessions": "cluster/another", "rollout-groups": "cluster/rollout-groups"},
    "tokenizer_version": "another",
    "ranks": 2,
}
TOLD: dict[str, Any] = {"settings_digest": "another", "machine": "another", "torch": "0.1", "threads": 64}


@dataclass(frozen=True)
class EmptyLog:
    """Topics without records, at a cluster."""

    cluster: str = "cluster"

    def identity(self, name: str) -> str:
        return f"{self.cluster}/{name}"

    def reader(self, name: str, positions: dict[int, int]) -> LogReader:  # noqa: ARG002
        return ListReader([], positions)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run with its first checkpoint. To be left as it is."""
    run = TinyRun.make(tmp_path_factory.mktemp("resume") / "run", "", "stream.partitions=2", topics=False)
    reopen(run)
    return run


@pytest.fixture
def run(begun: TinyRun, tmp_path: Path) -> TinyRun:
    """A copy of it."""
    return replace(begun, folder=Path(shutil.copytree(begun.folder, tmp_path / "run")))


def reopen(run: TinyRun, log: EmptyLog | None = None, settings: Settings | None = None) -> None:
    opened = open_run(run.folder, settings or run.settings, Ranks(), log or EmptyLog())
    opened.indexes.close()
    opened.history.close()


def bind(run: TinyRun, name: str, value: object) -> Any:
    """Let the checkpoint have been made under another fact; gives the true one."""
    folder = run.folder / "checkpoints"
    checkpoint = ck.load(folder, 0)
    identity = checkpoint.state.identity
    other = checkpoint.state.model_copy(update={"identity": identity.model_copy(update={name: value})})
    ck.commit(folder, replace(checkpoint, state=other))
    return getattr(identity, name)


def test_every_fact_either_binds_a_checkpoint_or_is_told() -> None:
    assert BOUND.keys() | TOLD.keys() == Identity.model_fields.keys()
    assert not BOUND.keys() & TOLD.keys()


def test_a_run_that_is_the_same_is_opened_again_without_a_word(run: TinyRun, caplog: pytest.LogCaptureFixture) -> None:
    reopen(run)
    assert not caplog.records


@pytest.mark.parametrize("name", BOUND)
def test_a_checkpoint_is_not_carried_across(run: TinyRun, name: str) -> None:
    now = bind(run, name, BOUND[name])
    with pytest.raises(CheckpointError) as refused:
        reopen(run)
    expected = f"the checkpoint's {name} is {BOUND[name]!r}, but here it is {now!r}: it cannot be carried across"
    assert str(refused.value) == expected


def test_another_log_behind_the_same_names_is_refused_and_the_run_stays_as_it_was(run: TinyRun) -> None:
    before = ck.load(run.folder / "checkpoints", 0).state
    with pytest.raises(CheckpointError, match=r"logs is .*'cluster/sessions'.* here it is .*'new/sessions'"):
        reopen(run, EmptyLog("new"))
    assert ck.load(run.folder / "checkpoints", 0).state == before
    reopen(run)


@pytest.mark.parametrize("name", TOLD)
def test_what_only_ends_bit_identity_is_told(run: TinyRun, name: str, caplog: pytest.LogCaptureFixture) -> None:
    now = bind(run, name, TOLD[name])
    reopen(run)
    (told,) = caplog.records
    assert told.levelno == logging.WARNING
    expected = f"{name} was {TOLD[name]!r} and is now {now!r}: parameters will not be bit-identical to an uninterrupted run"
    assert told.getMessage() == expected


def test_other_settings_are_told_but_where_the_brokers_are_is_none(run: TinyRun, caplog: pytest.LogCaptureFixture) -> None:
    moved = ("stream.partitions=2", 'stream.bootstrap="elsewhere:9092"', 'redis.url="redis://elsewhere:6379"')
    reopen(run, settings=tiny_settings(*moved))
    assert not caplog.records
    reopen(run, settings=tiny_settings("stream.partitions=2", "trainer.clip_norm=0.5"))
    (told,) = caplog.records
    assert told.getMessage().startswith("settings_digest was ")
