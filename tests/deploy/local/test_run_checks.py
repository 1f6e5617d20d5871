"""Checks of a run folder with small real checkpoints."""

from __future__ import annotations

import os
import platform
import shutil
import time
from pathlib import Path

import pytest
import torch

from common.settings import Settings
from deploy.local.checks import Finding, find
from deploy.local.run_checks import RunChecks
from deploy.local.run_folder import RunFolder
from tests.factories import make_index
from tests.trainer.test_checkpoint import IDENTITY
from trainer.checkpoint import POLICY, Checkpoint, RunState, commit
from trainer.journal import Journal, JournalEntry


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Checkpoints of the steps 2 and 4, and a journal of 6 steps."""
    run = RunFolder.create(tmp_path / "run", Settings(), {})
    machine = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    identity = IDENTITY.model_copy(update={"torch": str(torch.__version__), "machine": machine})
    for step in (2, 4):
        state = RunState(step=step, identity=identity, sessions={0: step}, groups={0: 0}, indexes=[1])
        commit(run.checkpoints, Checkpoint(b"policy" * step, {"a": torch.zeros(3)}, state))
    journal = Journal(run.path / "journal.jsonl")
    for step in range(1, 7):
        journal.append(JournalEntry(step=step, ranges={0: (step - 1, step)}, index_version=1))
    journal.close()
    make_index().save(run.index / "000001")
    return run


def outcomes(run: RunFolder) -> dict[str, Finding]:
    return {check.name: find(check) for check in RunChecks(run, Settings()).checks()}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_whole_run_is_found_whole(run: RunFolder) -> None:
    told = outcomes(run)
    whole = ("run folder", "item index", "checkpoints", "journal", "same machine", "clock", "room for checkpoints")
    assert {told[name].state for name in whole} == {"ok"}
    assert told["checkpoints"].found == "steps 2, 4 are whole"
    assert told["journal"].found == "2 steps behind checkpoint 4 are on record"
    for name, step in (("session log", "log"), ("preference model", "reward")):
        assert told[name].state == "error"
        assert f"onerec prepare {step} --run-folder {run.path}" in told[name].remedy


def test_one_damaged_checkpoint_is_a_warning_and_all_are_an_error(run: RunFolder) -> None:
    flip(run.checkpoints / "00000004" / POLICY)
    one = outcomes(run)["checkpoints"]
    assert (one.state, "00000004/policy.safetensors is damaged" in one.found) == ("warning", True)
    flip(run.checkpoints / "00000002" / POLICY)
    assert outcomes(run)["checkpoints"].state == "error"


def test_a_damaged_journal_or_index_is_named(run: RunFolder) -> None:
    text = (run.path / "journal.jsonl").read_text()
    (run.path / "journal.jsonl").write_text(text.replace('"step":5', '"step":7'))
    largest = max((run.index / "000001").iterdir(), key=lambda path: path.stat().st_size)
    flip(largest)
    told = outcomes(run)
    assert (told["journal"].state, "line 5 is damaged" in told["journal"].found) == ("error", True)
    assert (told["item index"].state, largest.name in told["item index"].found) == ("error", True)


def test_a_folder_that_others_can_read_another_torch_and_a_wrong_clock_are_warnings(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.path.chmod(0o755)
    os.utime(run.settings_file, (time.time() + 3600, time.time() + 3600))
    monkeypatch.setattr(torch, "__version__", "1.0")
    told = outcomes(run)
    for name, found in (("run folder", "mode 0755"), ("clock", "in the future"), ("same machine", "here it is torch 1.0")):
        assert told[name].state == "warning"
        assert found in told[name].found


def test_a_run_without_checkpoints_has_nothing_to_check_of_them(run: RunFolder) -> None:
    shutil.rmtree(run.checkpoints)
    told = outcomes(run)
    assert {told[name].state for name in ("checkpoints", "journal", "same machine", "room for checkpoints")} == {"skipped"}
