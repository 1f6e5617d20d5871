"""TensorBoard's files are read back as TensorBoard would: records with checksums, one event a step."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from deploy.local.event_files import EventFiles

STEP: dict[str, Any] = {
    "kind": "step",
    "time_ms": 1_700_000_000_500,
    "seconds": 0.25,
    "version": 20,
    "index_version": 2,
    "outstanding": 1,
    "filter_median_ms": 8000.0,
    "targets": 8,
    "loss_per_level": [2.0, 1.5],
    "preference_loss": -0.5,
    "format_loss": 0.25,
    "sft_grad_norm": 3.0,
    "rl_grad_norm": 0.125,
    "clipped_share": 0.5,
    "mean_ratio": 1.25,
    "feedback_loss": 0.0,
    "feedback_positive": 0,
    "feedback_negative": 0,
    "max_violation": None,
    "utilisation": 0.5,
    "counters": {"sessions.consumed": 120},
}
GROUP = {"kind": "group", "outcome": "trained", "legal_share": 0.5, "mean_reward": 0.25, "lag": 1, "parity_error": 0.0}
DROPPED = {"kind": "group", "outcome": "given_up"}


def masked(data: bytes) -> int:
    """A record's checksum as the format wants it."""
    crc = int(crc32c(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_back(folder: Path) -> dict[int, dict[str, float]]:
    """Scalars by step of the folder's only file."""
    (file,) = folder.glob("events.out.tfevents.*")
    data, found = file.read_bytes(), {}
    while data:
        (length,), (header,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        body, (checksum,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        assert (header, checksum) == (masked(data[:8]), masked(body))
        event = Event.FromString(body)
        if event.HasField("summary"):
            assert event.step not in found
            assert event.wall_time == STEP["time_ms"] / 1000
            found[event.step] = {value.tag: value.simple_value for value in event.summary.value}
        data = data[16 + length :]
    return found


def append(path: Path, *lines: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def test_each_step_has_the_figures_that_it_measured(tmp_path: Path) -> None:
    statistics, folder = tmp_path / "trainer_stats.jsonl", tmp_path / "tensorboard"
    append(
        statistics,
        GROUP,
        {**GROUP, "legal_share": 1.0, "lag": 0},
        DROPPED,
        {**STEP, "step": 1},
        {**STEP, "step": 2, "targets": 0},
    )
    with EventFiles(statistics, folder) as files:
        files.update()
        assert files.step == 2
    first, second = (read_back(folder)[step] for step in (1, 2))
    assert (first["loss/level 1"], first["loss/next token"], first["loss/preference"]) == (2.0, 3.5, -0.5)
    assert (first["groups/legality"], first["groups/reward"], first["groups/staleness versions"]) == (0.75, 0.25, 0.5)
    assert (first["gradient norm/next token"], first["gradient norm/reinforcement"]) == (3.0, 0.125)
    assert (first["speed/step seconds"], first["version/parameters"]) == (0.25, 20)
    assert (first["sessions/filter median seconds"], first["total/sessions.consumed"]) == (8.0, 120)
    assert not {"loss/feedback", "experts/load violation"} & set(first)
    assert not {"loss/level 1", "loss/preference", "groups/legality", "gradient norm/next token"} & set(second)


def test_new_steps_are_added_and_repeated_ones_are_not(tmp_path: Path) -> None:
    statistics, folder = tmp_path / "trainer_stats.jsonl", tmp_path / "tensorboard"
    told: list[int] = []
    with EventFiles(statistics, folder) as files:
        files.update(told.append)
        append(statistics, {**STEP, "step": 1}, GROUP, {**STEP, "step": 2})
        files.update(told.append)
        append(statistics, {**STEP, "step": 2, "seconds": 9.0}, {**STEP, "step": 3})
        files.update(told.append)
    assert told == [1, 2, 3]
    assert [scalars["speed/step seconds"] for scalars in read_back(folder).values()] == pytest.approx([0.25, 0.25, 0.25])


def test_a_folder_is_made_anew(tmp_path: Path) -> None:
    statistics, folder = tmp_path / "trainer_stats.jsonl", tmp_path / "tensorboard"
    append(statistics, {**STEP, "step": 1})
    (folder).mkdir()
    (folder / "events.out.tfevents.1.old").write_bytes(b"old")
    (folder / "notes.txt").write_text("mine")
    with EventFiles(statistics, folder) as files:
        files.update()
    assert list(read_back(folder)) == [1]
    assert (folder / "notes.txt").exists()
