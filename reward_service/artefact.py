"""A trained preference model on disk: an immutable folder ``NNNNNN`` whose COMMITTED marker is written last."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load, save

from reward_service.inputs import Shape
from reward_service.preference_model import PreferenceModel

WEIGHTS, CARD, MARKER = "model.safetensors", "model.json", "COMMITTED"


class Card(BaseModel):
    """What must be known of a model beside its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    tokenizer_version: str
    index_version: int
    shape: Shape
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Artefact:
    """A model in evaluation mode and its card."""

    model: PreferenceModel
    card: Card


def save_artefact(
    folder: Path, model: PreferenceModel, tokenizer_version: str, index_version: int, report: dict[str, Any]
) -> Card:
    """Write the model as the next numbered folder below ``folder``: all of it or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{max([0, *_numbers(folder)]) + 1:06d}"
    weights = save(model.state_dict())
    version = f"{name}-{xxhash.xxh3_64_hexdigest(weights)[:8]}"
    card = Card(
        version=version, tokenizer_version=tokenizer_version, index_version=index_version, shape=model.shape, report=report
    )
    files = {WEIGHTS: weights, CARD: card.model_dump_json(indent=2).encode()}
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
    return Artefact(model.eval(), card)


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
    if xxhash.xxh3_128_hexdigest(data) != marker[path.name]["xxh3_128"]:
        raise ValueError(f"model file {path} is torn or corrupt: its checksum differs from the {MARKER} marker's")
    return data
