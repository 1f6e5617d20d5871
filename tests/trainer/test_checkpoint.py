import shutil
from pathlib import Path

import pytest
import torch

from trainer import checkpoint as ck
from trainer.checkpoint import Checkpoint, CheckpointError, Identity, RunState
from trainer.frontier import Asked, Frontier

IDENTITY = Identity(
    run="r",
    prefix="p",
    partitions={"sessions": 2},
    logs={"sessions": "c/t"},
    tokenizer_version="t",
    settings_digest="d",
    machine="m",
    torch="t",
    threads=1,
)


def make(step: int) -> Checkpoint:
    frontier = Frontier()
    frontier.request((0, step), Asked(user_id=1, time_ms=2, tab=3))
    state = RunState(
        step=step,
        identity=IDENTITY,
        sessions={0: step, 1: 7},
        groups={0: 3},
        frontier=frontier.state(),
        indexes=[1, 2],
        versions=[0, step],
        counters={"sessions.consumed": step},
    )
    return Checkpoint(b"weights %d" % step, {"optimizer.m": torch.full((2, 3), float(step))}, state)


def test_what_is_committed_comes_back(tmp_path: Path) -> None:
    ck.commit(tmp_path, make(4))
    loaded = ck.load_latest(tmp_path)
    assert loaded is not None
    assert (loaded.policy, loaded.state) == (b"weights 4", make(4).state)
    assert torch.equal(loaded.trainer["optimizer.m"], torch.full((2, 3), 4.0))
    assert ck.policy_blob(tmp_path, 4) == b"weights 4"


def test_before_the_first_commit_there_is_nothing(tmp_path: Path) -> None:
    assert ck.load_latest(tmp_path / "checkpoints") is None


@pytest.mark.parametrize("name", [ck.POLICY, ck.TRAINER, ck.STATE])
@pytest.mark.parametrize("damage", ["flipped", "torn", "missing"])
def test_a_damaged_file_is_named_and_the_one_before_is_used(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        ck.commit(tmp_path, make(step))
    path = tmp_path / "00000002" / name
    data = path.read_bytes()
    middle = len(data) // 2
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:middle] if damage == "torn" else data[:middle] + b"\xff" + data[middle + 1 :])
    with pytest.raises(CheckpointError, match=name):
        ck.load(tmp_path, 2)
    loaded = ck.load_latest(tmp_path)
    assert loaded is not None
    assert loaded.state.step == 1
    assert name in caplog.text
    ck.commit(tmp_path, make(2))  # executed again after the fall-back
    assert ck.load(tmp_path, 2).state == make(2).state


def test_a_folder_without_its_marker_does_not_count(tmp_path: Path) -> None:
    for step in (1, 2):
        ck.commit(tmp_path, make(step))
    (tmp_path / "00000002" / ck.MARKER).unlink()
    assert ck.committed(tmp_path) == [1]


def test_when_none_is_intact_it_is_an_error_and_never_a_fresh_start(tmp_path: Path) -> None:
    ck.commit(tmp_path, make(1))
    (tmp_path / "00000001" / ck.MARKER).write_text("{")
    with pytest.raises(CheckpointError, match="no intact checkpoint is left"):
        ck.load_latest(tmp_path)


def test_the_newest_three_and_the_retained_are_kept(tmp_path: Path) -> None:
    for step in range(1, 8):
        ck.commit(tmp_path, make(step), retain=[2])
    assert ck.committed(tmp_path) == [2, 5, 6, 7]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{s:08d}" for s in (2, 5, 6, 7)]


def test_what_a_killed_trainer_did_not_finish_goes_with_the_next_commit(tmp_path: Path) -> None:
    """Also where it was of a step at which no other checkpoint is due, such as the last one before a stop."""
    ck.commit(tmp_path, make(5))
    shutil.copytree(tmp_path / "00000005", tmp_path / ".building-00000007")
    ck.commit(tmp_path, make(10))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000005", "00000010"]


@pytest.mark.parametrize("damage", [b"", b'{"step": 2}'])
def test_a_damaged_checkpoint_holds_no_index_back(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        ck.commit(tmp_path, make(step))
    assert ck.oldest_index(tmp_path) == 1
    (tmp_path / "00000002" / ck.STATE).write_bytes(damage)
    assert ck.oldest_index(tmp_path) == 1
    assert "checkpoint 2 is damaged" in caplog.text
    (tmp_path / "00000001" / ck.MARKER).write_text("{")
    assert ck.oldest_index(tmp_path) is None
