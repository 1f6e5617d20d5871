"""Content item vectors: from the log's own content vectors, or from who made an item, its tags and its music.

Shape legend: N items, V distinct values, d vector width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from common.messages import Item
from tokenizer_job.item_vectors.collaborative import embed

Floats = npt.NDArray[np.float32]


def content_vectors(items: list[Item], given: Floats | None, width: int) -> Floats:
    """Vectors (N, ``width``) with rows of length 1, or 0 where nothing is known of an item.

    ``given`` vectors (N, any) are normalised, and wider ones reduced to their principal components.
    """
    vectors = embed(attributes(items), width) if given is None else reduce_width(unit_rows(given), width)
    return unit_rows(vectors)


def unit_rows(vectors: npt.NDArray[np.floating]) -> Floats:
    """Rows scaled to length 1; zero rows stay zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0), np.float32)


def reduce_width(vectors: Floats, width: int) -> Floats:
    """Principal components of wider vectors; narrower ones are padded with zeros."""
    if vectors.shape[1] <= width:
        return np.pad(vectors, ((0, 0), (0, width - vectors.shape[1])))
    centred = vectors.astype(np.float64) - vectors.mean(0)
    _, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    leading = directions[:, ::-1][:, :width]
    largest = leading[np.argmax(np.abs(leading), axis=0), np.arange(width)]
    return np.asarray(centred @ (leading * np.sign(largest)), np.float32)


def attributes(items: list[Item]) -> sparse.csr_array:
    """One row per item (N, V), 1 / sqrt(values of its field) at each author, tag and music that other items share.

    Author and music 0 mean unknown. A value that only one item has makes it like no other item, and is left out.
    """
    entries: list[tuple[int, str, int, float]] = []
    for row, item in enumerate(items):
        entries.extend((row, field, value, 1.0) for field, value in _ids(item) if value)
        entries.extend((row, "tag", tag, len(set(item.tags)) ** -0.5) for tag in sorted(set(item.tags)))
    values = sorted({(field, value) for _, field, value, _ in entries})
    column_of = {value: column for column, value in enumerate(values)}
    data = [weight for *_, weight in entries]
    where = ([row for row, *_ in entries], [column_of[field, value] for _, field, value, _ in entries])
    matrix = sparse.csc_array((data, where), shape=(len(items), len(values)))
    shared = np.flatnonzero(np.diff(matrix.indptr) > 1)
    return sparse.csr_array(matrix[:, shared])


def _ids(item: Item) -> tuple[tuple[str, int], tuple[str, int]]:
    return ("author", item.author_id), ("music", item.music_id)
