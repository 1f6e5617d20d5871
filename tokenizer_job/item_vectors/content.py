"""Content item vectors: from given content vectors, or from who made an item, its tags and its music.

Both are fitted once, on the first catalogue, and frozen then: a later item gets the vector it would have had.
Shape legend: N items, V distinct values, d vector width, w width of the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from common.content import Content
from common.messages import Item
from tokenizer_job.item_vectors.collaborative import singular_vectors

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Arrays = Mapping[str, npt.NDArray[Any]]
FIELDS = ("author", "music", "tag")


class ContentEncoder(Protocol):
    """Items -> content vectors (N, w), rows of length 1, or 0 where nothing is known of an item."""

    kind: ClassVar[str]

    @property
    def width(self) -> int | None:
        """Width of the content vectors that it needs; None if it goes by attributes."""

    def __call__(self, items: list[Item], content: Content | None) -> Floats:
        """ValueError if the content does not fit what the encoder was fitted on."""

    def arrays(self) -> Arrays:
        """What the constructor takes."""


@dataclass(frozen=True, eq=False)
class GivenContent:
    """The mean of an item's content vectors, of length 1, on the principal directions of the first catalogue."""

    kind: ClassVar[str] = "given"
    mean: Floats  # (d,)
    directions: Floats  # (d, w)

    @property
    def width(self) -> int | None:
        """d."""
        return len(self.mean)

    @staticmethod
    def fit(content: Content, width: int) -> GivenContent:
        """Vectors that are not wider than ``width`` are kept as they are, padded with zeros."""
        vectors = unit_rows(content.pooled())
        d = vectors.shape[1]
        if d <= width:
            return GivenContent(np.zeros(d, np.float32), np.eye(d, width, dtype=np.float32))
        mean = vectors.mean(0)
        centred = vectors.astype(np.float64) - mean
        _, directions = np.linalg.eigh(centred.T @ centred)  # ascending
        return GivenContent(mean, positive_peaks(directions[:, ::-1][:, :width]).astype(np.float32))

    def __call__(self, items: list[Item], content: Content | None) -> Floats:
        """Raises ValueError if ``content`` is missing or of another width."""
        del items
        if content is None or content.width != len(self.mean):
            got = "none" if content is None else f"width {content.width}"
            raise ValueError(f"content must have width {len(self.mean)}, as at the fit, got {got}")
        vectors = unit_rows(content.pooled())
        projected = (vectors.astype(np.float64) - self.mean) @ self.directions
        return unit_rows(np.where(vectors.any(1, keepdims=True), projected, 0.0))

    def arrays(self) -> Arrays:
        """What the constructor takes."""
        return {"mean": self.mean, "directions": self.directions}


@dataclass(frozen=True, eq=False)
class AttributeContent:
    """Attributes that items of the first catalogue share, on the leading singular directions of its attribute matrix.

    A row x of that matrix X = U S V^T becomes x V / sqrt(S), which is U sqrt(S) for the rows of X.
    """

    kind: ClassVar[str] = "attributes"
    values: Ints  # (V, 2) field number and value of each column, ascending
    directions: Floats  # (V, w)

    @property
    def width(self) -> int | None:
        """It needs none."""
        return None

    @staticmethod
    def fit(items: list[Item], width: int) -> AttributeContent:
        """Values that only one item has make it like no other item, and are left out."""
        entries = _entries(items)
        values, count = np.unique(entries.values, axis=0, return_counts=True)
        values = values[count > 1].reshape(-1, 2)
        matrix = _matrix(entries, values, len(items))
        left, singular, right = singular_vectors(matrix, width)
        del left
        directions = np.zeros((len(values), width))
        kept = singular > 1e-6 * max(singular.max(initial=0.0), 1e-30)
        directions[:, : len(singular)][:, kept] = right[:, kept] / np.sqrt(singular[kept])
        return AttributeContent(values, directions.astype(np.float32))

    def __call__(self, items: list[Item], content: Content | None) -> Floats:
        """Values that the first catalogue did not share are unknown and tell nothing; ``content`` is not used."""
        del content
        return unit_rows(_matrix(_entries(items), self.values, len(items)) @ self.directions)

    def arrays(self) -> Arrays:
        """What the constructor takes."""
        return {"values": self.values, "directions": self.directions}


def fit_content(items: list[Item], content: Content | None, width: int) -> ContentEncoder:
    """The encoder of a catalogue: of its content vectors where it has any, of its attributes otherwise."""
    return AttributeContent.fit(items, width) if content is None else GivenContent.fit(content, width)


def unit_rows(vectors: npt.NDArray[np.floating]) -> Floats:
    """Rows scaled to length 1; zero rows stay zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0), np.float32)


def positive_peaks(columns: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Columns with their signs chosen so that the largest entry of each is positive: a decomposition leaves them open."""
    largest = columns[np.argmax(np.abs(columns), axis=0), np.arange(columns.shape[1])]
    return np.asarray(columns * np.sign(largest))


@dataclass(frozen=True, eq=False)
class _Entries:
    """One line per attribute of an item: its row, (field, value), and 1 / sqrt(values the item has in that field)."""

    row: Ints
    values: Ints  # (E, 2)
    weight: npt.NDArray[np.float64]


def _entries(items: list[Item]) -> _Entries:
    """Author and music 0 mean unknown; equal tags of an item count once."""
    found: list[tuple[int, int, int, float]] = []
    for row, item in enumerate(items):
        found.extend((row, field, value, 1.0) for field, value in enumerate((item.author_id, item.music_id)) if value)
        tags = sorted(set(item.tags))
        found.extend((row, FIELDS.index("tag"), tag, len(tags) ** -0.5) for tag in tags)
    keys = np.array([(field, value) for _, field, value, _ in found], np.int64).reshape(-1, 2)
    return _Entries(np.array([row for row, *_ in found], np.int64), keys, np.array([w for *_, w in found], np.float64))


def _matrix(entries: _Entries, values: Ints, items: int) -> sparse.csr_array:
    """The attribute matrix (N, V); attributes that are none of ``values`` are left out."""
    column_of = {(field, value): column for column, (field, value) in enumerate(values.tolist())}
    column = np.array([column_of.get((f, v), -1) for f, v in entries.values.tolist()], np.int64)
    known = column >= 0
    return sparse.csr_array((entries.weight[known], (entries.row[known], column[known])), shape=(items, len(values)))
