"""Training: it learns a planted taste, looks at the past only, and leaves a whole artefact or none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.messages import Session
from reward_service.artefact import MARKER, load_artefact
from reward_service.exposures import Exposures, read_exposures
from reward_service.inputs import InputBuilder, Shape
from reward_service.labels import OBJECTIVES
from reward_service.training import train_preference_model
from tests.reward_service.tiny_world import DAY0_MS, DAYS, USERS, make_index, make_sessions, tiny_settings, write_log

INDEX = make_index()
SETTINGS = tiny_settings()
SHAPE = Shape.of(SETTINGS, INDEX)


def read(path: Path, sessions: list[Session]) -> Exposures:
    return read_exposures(write_log(path, sessions), INDEX, SHAPE, DAYS - 1)


def tensors_of(exposures: Exposures, targets: int) -> list[torch.Tensor]:
    """The model inputs of the first targets."""
    inputs = InputBuilder(SHAPE, INDEX)(exposures.requests, exposures.targets.take(slice(0, targets)))
    plain = (inputs.tab, inputs.user, inputs.static, inputs.hour, inputs.play, inputs.age, inputs.labels, inputs.found)
    return [*plain, inputs.event_item.vid, inputs.item.vid]


def test_training_learns_the_planted_taste(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", make_sessions())
    lines: list[str] = []
    report = train_preference_model(log, INDEX, SETTINGS, tmp_path, DAYS, lines.append)
    clicks = report["objectives"]["ctr"]
    assert clicks["auc"] > 0.75  # one label in ten is flipped: 0.9 is the most that can be reached
    assert clicks["p_auc"] > 0.7
    assert clicks["gauc"] > 0.7
    assert 0.7 < clicks["calibration"] < 1.4
    assert clicks["weight"] == pytest.approx(1 / clicks["prevalence"])
    assert report["objectives"]["wtr"]["auc"] is None  # nobody follows in this log
    assert report["impressions"] == 4 * USERS * DAYS * 2
    assert lines[-1].startswith(f"preference model {report['version']}")


def test_shuffling_the_future_changes_no_earlier_sample(tmp_path: Path) -> None:
    sessions = make_sessions()
    half = len(sessions) // 2
    other = make_sessions(seed=9)
    before = read(tmp_path / "a", sessions)
    after = read(tmp_path / "b", sessions[:half] + other[half:])
    for ours, theirs in zip(tensors_of(before, 4 * half), tensors_of(after, 4 * half), strict=True):
        assert torch.equal(ours, theirs)
    whole = zip(tensors_of(before, len(before)), tensors_of(after, len(after)), strict=True)
    assert not all(torch.equal(ours, theirs) for ours, theirs in whole)


def test_a_session_does_not_see_itself_and_initial_history_comes_first(tmp_path: Path) -> None:
    requests = read(tmp_path / "log", make_sessions()).requests
    mine = np.flatnonzero(requests.user_id == 5)
    assert (requests.end - requests.begin)[mine].tolist() == [2, 6, 10, 14, 18, 22]
    for r in mine:
        seen = slice(int(requests.begin[r]), int(requests.end[r]))
        assert requests.events.item_id[seen][:2].tolist() == [100, 101]
        assert (requests.events.time_ms[seen] < requests.time_ms[r]).all()


def test_impressions_of_unknown_items_are_left_out(tmp_path: Path) -> None:
    sessions = make_sessions()
    strange = sessions[0].impressions[0].model_copy(update={"item_id": 7})
    changed = sessions[0].model_copy(update={"impressions": [strange, *sessions[0].impressions[1:]]})
    assert len(read(tmp_path / "log", [changed, *sessions[1:]])) == 4 * len(sessions) - 1
    only = sessions[0].model_copy(update={"impressions": [strange]})
    with pytest.raises(ValueError, match="no impression of an item"):
        read(tmp_path / "strange", [only])


def test_batches_are_whole_sessions_that_cover_everything_once(tmp_path: Path) -> None:
    exposures = read(tmp_path / "log", make_sessions())
    cut = exposures.split(0.1)
    batches = exposures.batches(50, 0, cut) + exposures.batches(50, cut, len(exposures))
    assert [i for b in batches for i in range(b.start, b.stop)] == list(range(len(exposures)))
    assert all(b.start % 4 == 0 for b in batches)  # sessions have four impressions
    assert 0.85 < cut / len(exposures) < 0.95


def test_training_is_deterministic(tmp_path: Path, run_folder: Path) -> None:
    log = write_log(tmp_path / "log", make_sessions())
    report = train_preference_model(log, INDEX, SETTINGS, tmp_path, DAYS, lambda _: None)
    assert report["version"] == load_artefact(run_folder / "reward").card.version


def test_days_after_the_last_train_day_are_not_read(tmp_path: Path) -> None:
    exposures = read_exposures(write_log(tmp_path / "log", make_sessions()), INDEX, SHAPE, 0)
    assert exposures.requests.time_ms.max() < DAY0_MS + 86_400_000
    with pytest.raises(ValueError, match="train_days must be at least 1"):
        train_preference_model(write_log(tmp_path / "b", make_sessions()), INDEX, SETTINGS, tmp_path, 0, lambda _: None)


def test_some_users_alone_can_be_read(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", make_sessions())
    whole = read_exposures(log, INDEX, SHAPE, DAYS - 1)
    halves = [read_exposures(log, INDEX, SHAPE, DAYS - 1, lambda user, half=half: user % 2 == half) for half in (0, 1)]  # type: ignore[misc]
    assert [set((half.user % 2).tolist()) for half in halves] == [{0}, {1}]
    assert sum(map(len, halves)) == len(whole)
    even = whole.user % 2 == 0
    assert np.array_equal(halves[0].targets.row, whole.targets.row[even])
    assert np.array_equal(halves[0].labels.values, whole.labels.values[even])


def test_an_artefact_is_whole_or_refused(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", make_sessions()[: 2 * USERS])
    train_preference_model(log, INDEX, tiny_settings(epochs=1), tmp_path, 1, lambda _: None)
    folder = tmp_path / "reward"
    assert [p.name for p in folder.iterdir()] == ["000001"]
    artefact = load_artefact(folder)
    assert artefact.card.version.startswith("000001-")
    assert set(artefact.card.report["objectives"]) == {*OBJECTIVES, "interaction"}
    weights = folder / "000001" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors is torn or corrupt"):
        load_artefact(folder)
    for damage in (b"{", b"{}", b"[1]", b'{"model.json": 1}'):
        (folder / "000001" / MARKER).write_bytes(damage)
        with pytest.raises(ValueError, match=r"model file .*COMMITTED is damaged"):
            load_artefact(folder)
    (folder / "000001" / MARKER).unlink()
    with pytest.raises(ValueError, match="no committed preference model"):
        load_artefact(folder)


def test_the_marker_names_all_files(run_folder: Path) -> None:
    marker = json.loads((run_folder / "reward" / "000001" / MARKER).read_bytes())
    assert set(marker) == {"model.safetensors", "optimizer.safetensors", "model.json"}
