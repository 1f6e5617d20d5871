"""The frozen map from items to the vectors that are quantised: fitted on the first catalogue, kept for new items.

Shape legend: N items, S items that users had met at the fit, d vector width.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from common.content import Content
from common.messages import Item
from common.settings import TokenizerSettings
from tokenizer_job.alignment.aligner import Aligner
from tokenizer_job.alignment.captions import caption
from tokenizer_job.alignment.pairs import item_pairs
from tokenizer_job.alignment.training import fit_alignment
from tokenizer_job.events import TrainingEvents
from tokenizer_job.item_vectors.collaborative import collaborative_vectors
from tokenizer_job.item_vectors.content import AttributeContent, ContentEncoder, GivenContent, fit_content, unit_rows
from tokenizer_job.item_vectors.join import join, neighbours_mean

Floats = npt.NDArray[np.float32]
Say = Callable[[str], None]
CONTENT_FILE, ALIGNER, JOINED_FILE = "content.safetensors", "aligner.safetensors", "collaborative.safetensors"


class ItemEncoder(Protocol):
    """Items -> vectors (N, d). Behaviour is known of the first catalogue only: later items have their content."""

    @property
    def content_width(self) -> int | None:
        """Width of the content vectors that it needs; None if it goes by attributes."""

    def encode(self, items: list[Item], content: Content | None) -> Floats:
        """ValueError if the content does not fit what the encoder was fitted on."""

    def save(self, folder: Path) -> None:
        """Write everything into the folder."""


@dataclass(frozen=True, eq=False)
class JoinedEncoder:
    """A collaborative and a content part side by side; a new item's collaborative part is that of items like it."""

    content: ContentEncoder
    seen_content: Floats  # (S, w)
    seen_collaborative: Floats  # (S, c)
    weights: tuple[float, float]  # of the collaborative and the content part

    @property
    def content_width(self) -> int | None:
        """See `ItemEncoder`."""
        return self.content.width

    def encode(self, items: list[Item], content: Content | None) -> Floats:
        """Vectors of items that nobody has met yet."""
        own = self.content(items, content)
        return join(neighbours_mean(own, self.seen_content, self.seen_collaborative), own, *self.weights)

    def save(self, folder: Path) -> None:
        """Write everything into the folder."""
        (folder / ALIGNER).unlink(missing_ok=True)  # of an earlier fit: `load_encoder` goes by the files
        _save_content(self.content, folder)
        arrays = {"seen_content": self.seen_content, "seen_collaborative": self.seen_collaborative}
        save_file(arrays, folder / JOINED_FILE, {"weights": json.dumps(self.weights)})


@dataclass(frozen=True, eq=False)
class AlignedEncoder:
    """QFormer vectors of the content tokens; a catalogue without content vectors has its attributes as one token."""

    aligner: Aligner
    attributes: ContentEncoder | None

    @property
    def content_width(self) -> int | None:
        """See `ItemEncoder`."""
        return self.aligner.inputs if self.attributes is None else None

    def encode(self, items: list[Item], content: Content | None) -> Floats:
        """Vectors of any items."""
        return self.aligner.encode(_tokens(self.attributes, items, content))

    def save(self, folder: Path) -> None:
        """Write everything into the folder."""
        (folder / CONTENT_FILE).unlink(missing_ok=True)  # of an earlier fit: `load_encoder` goes by the files
        if self.attributes is not None:
            _save_content(self.attributes, folder)
        self.aligner.save(folder / ALIGNER)


def fit_joined(
    items: list[Item], content: Content | None, events: TrainingEvents, settings: TokenizerSettings
) -> tuple[JoinedEncoder, Floats]:
    """The encoder, and the catalogue's vectors: items that users met keep what behaviour tells of them."""
    weights = settings.collaborative_weight, settings.content_weight
    collaborative = unit_rows(
        collaborative_vectors(events.user, events.row, len(items), settings.collaborative_width, settings.window)
    )
    encoder = fit_content(items, content, settings.content_width)
    own = encoder(items, content)
    seen = collaborative.any(1) & own.any(1)
    filled, unmet = collaborative.copy(), ~collaborative.any(1)
    filled[unmet] = neighbours_mean(own[unmet], own[seen], collaborative[seen])
    return JoinedEncoder(encoder, own[seen], collaborative[seen], weights), join(filled, own, *weights)


def fit_aligned(
    items: list[Item],
    content: Content | None,
    events: TrainingEvents,
    settings: TokenizerSettings,
    seed: int,
    on_progress: Say,
    resume: Path | None,
) -> tuple[AlignedEncoder, Floats]:
    """The encoder, trained to put items that users see as alike close together, and the catalogue's vectors."""
    attributes = None if content is not None else fit_content(items, None, settings.content_width)
    tokens = _tokens(attributes, items, content)
    on_progress(f"finding pairs of alike items in {len(events.row):,} events")
    pairs = item_pairs(events, len(items))
    aligner = fit_alignment(tokens, [caption(item) for item in items], pairs, settings.alignment, seed, on_progress, resume)
    encoder = AlignedEncoder(aligner, attributes)
    return encoder, aligner.encode(tokens)


def load_encoder(folder: Path) -> ItemEncoder:
    """Inverse of `ItemEncoder.save`."""
    if (folder / ALIGNER).is_file():
        attributes = _load_content(folder) if (folder / CONTENT_FILE).is_file() else None
        return AlignedEncoder(Aligner.load(folder / ALIGNER), attributes)
    arrays, metadata = _load_arrays(folder / JOINED_FILE)
    first, second = json.loads(metadata["weights"])
    return JoinedEncoder(_load_content(folder), arrays["seen_content"], arrays["seen_collaborative"], (first, second))


def _tokens(attributes: ContentEncoder | None, items: list[Item], content: Content | None) -> Content:
    if attributes is not None:
        vectors = attributes(items, None)
        return Content.of(vectors[:, None], np.asarray(vectors.any(1, keepdims=True)))
    if content is None:
        raise ValueError("content is missing: this tokenizer was fitted on content vectors")
    return content


def _save_content(encoder: ContentEncoder, folder: Path) -> None:
    save_file(dict(encoder.arrays()), folder / CONTENT_FILE, {"kind": encoder.kind})


def _load_content(folder: Path) -> ContentEncoder:
    arrays, metadata = _load_arrays(folder / CONTENT_FILE)
    return GivenContent(**arrays) if metadata["kind"] == GivenContent.kind else AttributeContent(**arrays)


def _load_arrays(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    with safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - no mapping
