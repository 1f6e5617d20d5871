"""A trained preference model on disk: an immutable folder ``NNNNNN`` whose COMMITTED marker is written last.

With it lies what is needed to train it on: the optimizer's state, and how far the sessions topic has been learned from.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load, save
from torch import Tensor

from common.item_index import ItemIndex
from reward_service.fit import Learner
from reward_service.inputs import Shape
from reward_service.labels import OBJECTIVES
from reward_service.preference_model import PreferenceModel

WEIGHTS, OPTIMIZER, CARD, MARKER = "model.safetensors", "optimizer.safetensors", "model.json", "COMMITTED"


class Card(BaseModel):
    """What must be known of a model beside its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    tokenizer_version: str
    index_version: int
    shape: Shape
    report: dict[str, Any]
    weights: dict[str, float]
    """Of the objectives in the P-Score's loss."""
    clicks_recorded: bool
    """Whether the log that it began with tells clicks (`reward_service.labels.make_labels`)."""
    positions: dict[int, int] = {}
    """By partition of the sessions topic, the first offset that it has not learned from; 0 where none is named."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """A model in evaluation mode, its card, and its optimizer's state."""

    model: PreferenceModel
    card: Card
    optimizer: dict[str, Tensor]

    def learner(self, learning_rate: float) -> Learner:
        """To train the model on from where it stands."""
        weights = np.array([self.card.weights[objective] for objective in OBJECTIVES])
        learner = Learner(self.model, weights, learning_rate)
        learner.load_state(self.optimizer)
        return learner


def save_artefact(folder: Path, learner: Learner, index: ItemIndex, report: dict[str, Any], **more: Any) -> Card:
    """Write the learner's model as the next numbered folder below ``folder``: all of it or nothing.

    ``more`` are those of the card's fields that neither learner nor index know.
    """
    model = learner.model
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{max([0, *_numbers(folder)]) + 1:06d}"
    weights = save(model.state_dict())
    version = f"{name}-{xxhash.xxh3_64_hexdigest(weights)[:8]}"
    card = Card(
        version=version,
        tokenizer_version=index.tokenizer_version,
        index_version=index.version,
        shape=model.shape,
        report=report,
        weights=dict(zip(OBJECTIVES, learner.weights.tolist(), strict=True)),
        **more,
    )
    files = {WEIGHTS: weights, OPTIMIZER: save(learner.state()), CARD: card.model_dump_json(indent=2).encode()}
    marker = {file: {"bytes": len(data), "xxh3_128": xxhash.xxh3_128_hexdigest(data)} for file, data in files.items()}
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
    try:
        for file, data in {**files, MARKER: json.dumps(marker, indent=2).encode()}.items():
            _write(temporary / file, data)
        temporary.rename(folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return card


def committed(folder: Path) -> list[int]:
    """Numbers of the committed models below ``folder``, ascending. Their contents are not verified."""
    return sorted(n for n in _numbers(folder) if (folder / f"{n:06d}" / MARKER).is_file())


def load_artefact(folder: Path, number: int | None = None) -> Artefact:
    """A committed model below ``folder``, by default the newest.

    Raises:
        ValueError: there is none, or a file of it is missing, torn or changed (named).
    """
    known = committed(folder)
    if not known or number not in {None, *known}:
        raise ValueError(f"{folder} holds no committed preference model" + (f" {number:06d}" if number else ""))
    path = folder / f"{number or known[-1]:06d}"
    marker = json.loads((path / MARKER).read_bytes())
    card = Card.model_validate_json(_read(path / CARD, marker))
    model = PreferenceModel(card.shape)
    model.load_state_dict(load(_read(path / WEIGHTS, marker)))
    return Artefact(model.eval(), card, load(_read(path / OPTIMIZER, marker)))


def prune_artefacts(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` committed models; one that is being read stays readable to its reader."""
    for number in committed(folder)[:-keep]:
        path = folder / f"{number:06d}"
        (path / MARKER).unlink()  # from here on it is no model, whenever the rest goes
        shutil.rmtree(path)


def _numbers(folder: Path) -> list[int]:
    return [int(p.name) for p in folder.glob("*") if re.fullmatch(r"\d{6}", p.name)]


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path, marker: dict[str, Any]) -> bytes:
    if not path.is_file():
        raise ValueError(f"model file {path} is missing")
    data = path.read_bytes()
    try:
        told = marker[path.name]["xxh3_128"]
    except (KeyError, TypeError):
        raise ValueError(f"{path.parent / MARKER} is damaged: it has no checksum of {path.name}") from None
    if xxhash.xxh3_128_hexdigest(data) != told:
        raise ValueError(f"model file {path} is torn or corrupt: its checksum differs from the {MARKER} marker's")
    return data
