"""Checkpoints: one atomic folder each, named by its step, and the truth about where a run stands.

    checkpoints/00001234/policy.safetensors    the bytes that are published as version 1234
                         trainer.safetensors   optimizer and session filter (of several ranks, each one's)
                         state.json            positions, frontier, counters, identity of the run
                         COMMITTED             size and checksum of the three, written last

A folder is filled beside its place, synced, and renamed: it is there as a whole or not at all.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from common.durable import sync_folder
from common.tensor_file import Parameters, packed
from trainer.frontier import FrontierState

POLICY, TRAINER, STATE, MARKER = "policy.safetensors", "trainer.safetensors", "state.json", "COMMITTED"
KEEP = 3
log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint cannot be used: names the file and what is wrong with it."""


class Identity(BaseModel):
    """What a run is bound to. Positions mean nothing elsewhere; parameters are bit-identical only on a like machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    prefix: str
    partitions: dict[str, int]
    logs: dict[str, str]
    """Cluster and topic ids: they change when a broker or a topic was recreated."""
    tokenizer_version: str
    """Another tokenizer is another vocabulary."""
    settings_digest: str
    machine: str
    torch: str
    threads: int
    ranks: int = 1
    """Processes that share the partitions out; each has its own journal and filter."""


class RunState(BaseModel):
    """What a checkpoint knows beside its tensors."""

    model_config = ConfigDict(extra="forbid")

    step: int
    identity: Identity
    sessions: dict[int, int]
    """Next offset to consume per partition of the sessions topic."""
    groups: dict[int, int]
    """The same for the groups topic."""
    frontier: FrontierState = FrontierState()
    indexes: list[int]
    """The item index versions held, the one in force last."""
    versions: list[int] = []
    """The parameter versions of this run so far, this one last."""
    counters: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint's contents."""

    policy: Parameters
    trainer: dict[str, Tensor]
    state: RunState


def commit(folder: Path, checkpoint: Checkpoint, retain: Iterable[int] = ()) -> Path:
    """Write a checkpoint so that it is there as a whole or not at all; drop old ones.

    Args:
        folder: the run's ``checkpoints`` folder.
        checkpoint: what to write, under its state's step. A damaged folder of that step is replaced.
        retain: steps to keep beside the newest `KEEP`.

    Raises:
        OSError: the disk did not take it. What was there before still is, but for a damaged folder of that step.
    """
    step = checkpoint.state.step
    target, building = folder / f"{step:08d}", folder / f".building-{step:08d}"
    for leftover in (*folder.glob(".building-*"), target):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        _build(building, checkpoint)
        building.rename(target)
    except OSError:
        shutil.rmtree(building, ignore_errors=True)  # its space is needed for the next one
        raise
    sync_folder(folder)
    _drop_old(folder, set(retain))
    return target


def _build(building: Path, checkpoint: Checkpoint) -> None:
    """Fill a folder, marker last, and put all of it on disk."""
    building.mkdir(parents=True)
    files = {
        POLICY: checkpoint.policy,
        TRAINER: packed(checkpoint.trainer),
        STATE: checkpoint.state.model_dump_json(indent=1).encode(),
    }
    sums = {name: {"nbytes": len(data), "xxh3_128": xxhash.xxh3_128_hexdigest(data)} for name, data in files.items()}
    for name, data in files.items():
        _write_synced(building / name, data)
    _write_synced(building / MARKER, json.dumps(sums, indent=1).encode())
    sync_folder(building)


def committed(folder: Path) -> list[int]:
    """Steps of the committed checkpoints, ascending. Their contents are not verified."""
    return sorted(int(p.parent.name) for p in folder.glob(f"[0-9]*/{MARKER}"))


def load(folder: Path, step: int) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        CheckpointError: a file is missing, torn or altered.
    """
    path = folder / f"{step:08d}"
    policy, trainer = (_read_verified(path, name) for name in (POLICY, TRAINER))
    return Checkpoint(policy, safetensors.torch.load(trainer), _state(path))


def oldest_index(folder: Path) -> int | None:
    """The oldest item index that an intact checkpoint names, as far as can be told without reading its parameters; None
    without any. A damaged one names nothing: no run resumes from it."""
    return min((min(state.indexes) for step in committed(folder) if (state := _intact_state(folder, step))), default=None)


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest intact checkpoint, or None where none was ever committed. Damaged ones are logged and passed over.

    Raises:
        CheckpointError: there are checkpoints and none is intact.
    """
    steps = committed(folder)
    damage = ""
    for step in reversed(steps):
        try:
            return load(folder, step)
        except CheckpointError as error:
            damage = str(error)
            log.error("checkpoint %d is damaged, falling back to the one before: %s", step, damage)
    if steps:
        raise CheckpointError(f"no intact checkpoint is left in {folder}; the oldest: {damage}")
    return None


def policy_blob(folder: Path, step: int) -> bytes:
    """The verified parameter bytes of one checkpoint.

    Raises:
        CheckpointError: they are missing, torn or altered.
    """
    return _read_verified(folder / f"{step:08d}", POLICY)


def _state(path: Path) -> RunState:
    try:
        return RunState.model_validate_json(_read_verified(path, STATE))
    except ValidationError as error:
        raise CheckpointError(f"{path / STATE}: {' '.join(str(error).split())[:300]}") from None


def _intact_state(folder: Path, step: int) -> RunState | None:
    try:
        return _state(folder / f"{step:08d}")
    except CheckpointError as error:
        log.error("checkpoint %d is damaged: %s", step, error)
        return None


def _read_verified(path: Path, name: str) -> bytes:
    try:
        expected = json.loads((path / MARKER).read_bytes())[name]
        data = (path / name).read_bytes()
        found = {"nbytes": len(data), "xxh3_128": xxhash.xxh3_128_hexdigest(data)}
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename} does not exist") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / MARKER} is damaged: {error!r}") from None
    if found != expected:
        raise CheckpointError(f"{path / name} is damaged: expected {expected}, found {found}")
    return data


def _write_synced(path: Path, data: Parameters) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _drop_old(folder: Path, retain: set[int]) -> None:
    for step in committed(folder)[:-KEEP]:
        if step not in retain:
            shutil.rmtree(folder / f"{step:08d}")
