"""A recorded interval comes out the same again, whatever happened while it was recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch

from tests.trainer.tiny_run import TinyRun
from trainer import checkpoint as ck
from trainer.bundle import BundleError
from trainer.journal import JournalError
from trainer.retrain import RetrainError, retrain


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_killed_run_is_retrained_bit_for_bit_and_left_alone(killed: TinyRun, tmp_path: Path) -> None:
    before = contents(killed.folder)
    steps = []
    found = retrain(killed.folder, tmp_path / "again", on_step=lambda step, end: steps.append((step, end)))
    assert found.differences() == []
    kept = ck.committed(killed.folder / "checkpoints")
    assert steps == [(step, kept[-1]) for step in range(kept[0] + 1, kept[-1] + 1)]
    assert found.recorded.state.counters["groups.trained"] > 5
    assert contents(killed.folder) == before


def test_any_interval_between_two_checkpoints(killed: TinyRun, tmp_path: Path) -> None:
    first, last = ck.committed(killed.folder / "checkpoints")[-3:-1]
    found = retrain(killed.folder, tmp_path / "again", first, last)
    assert found.differences() == []
    assert found.again.state.step == last


def test_what_differs_is_named(killed: TinyRun, tmp_path: Path) -> None:
    found = retrain(killed.folder, tmp_path / "again")
    tensors = found.again.trainer
    name = next(name for name, tensor in sorted(tensors.items()) if tensor.is_floating_point() and tensor.numel())
    changed = tensors[name].clone()
    changed.view(-1)[0] += 1
    policy = safetensors.torch.load(bytes(found.again.policy))
    weight = next(iter(sorted(policy)))
    blob = safetensors.torch.save(policy | {weight: policy[weight] + 1})
    other = replace(found.again, policy=blob, trainer=tensors | {name: changed})
    assert replace(found, again=other).differences() == [f"policy.{weight}", name]


def test_the_command_says_whether_it_is_the_same(killed: TinyRun) -> None:
    command = [sys.executable, "-m", "deploy.cli.main", "train", "--run-folder", str(killed.folder), "--replay-journal"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.partition(":")[0]) == (0, "bit for bit as recorded"), done.stderr


def test_a_damaged_journal_is_refused(killed: TinyRun, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("settings.json", "endpoints.json", "log", "index", "checkpoints"):
        (damaged / name).symlink_to(killed.folder / name)
    lines = (killed.folder / "journal.jsonl").read_bytes()
    (damaged / "journal.jsonl").write_bytes(lines.replace(b'"trained"', b'"stale"'))
    with pytest.raises(JournalError, match=r"line \d+ is damaged: its checksum does not match"):
        retrain(damaged, tmp_path / "again")


def test_what_cannot_be_retrained_is_named(killed: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"from must be one of the checkpoints kept, .*, got 3"):
        retrain(killed.folder, tmp_path / "a", first=3)
    newest = ck.committed(killed.folder / "checkpoints")[-1]
    with pytest.raises(BundleError, match=f"from must be below to, got {newest} and {newest}"):
        retrain(killed.folder, tmp_path / "a", first=newest)
    with pytest.raises(BundleError, match="has no committed checkpoint"):
        retrain(_without_checkpoints(killed, tmp_path), tmp_path / "a")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(RetrainError, match="is not empty"):
        retrain(killed.folder, tmp_path / "taken")


def _without_checkpoints(run: TinyRun, tmp_path: Path) -> Path:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "settings.json").write_text(json.dumps(json.loads((run.folder / "settings.json").read_text())))
    return bare
