"""What is known of items beside behaviour: a few content vectors per item, as a frozen encoder gave them.

Shape legend: N items, M tokens (the most that any item has), d vector width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Content:
    """Content tokens (N, M, d) and which of them are there (N, M); absent tokens are zero."""

    tokens: Floats
    mask: npt.NDArray[np.bool_]

    @staticmethod
    def of(vectors: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_] | None = None) -> Content:
        """From one vector per item (N, d), or several (N, M, d) with an optional mask (N, M).

        Raises:
            ValueError: shapes disagree, or a vector is not finite (names the row).
        """
        tokens = np.asarray(vectors, np.float32)
        tokens = tokens[:, None, :] if tokens.ndim == 2 else tokens
        if tokens.ndim != 3 or 0 in tokens.shape[1:]:
            raise ValueError(f"content must have shape (items, width) or (items, tokens, width), got {np.shape(vectors)}")
        present = np.ones(tokens.shape[:2], np.bool_) if mask is None else np.asarray(mask, np.bool_)
        if present.shape != tokens.shape[:2]:
            raise ValueError(f"the content mask must have shape {tokens.shape[:2]}, got {present.shape}")
        finite = np.isfinite(tokens).all(-1) | ~present
        if not finite.all():
            raise ValueError(f"content vectors must be finite, row {int(np.argmin(finite.all(1)))} is not")
        return Content(np.where(present[..., None], tokens, np.float32(0)), present)

    @staticmethod
    def of_lists(tokens: Sequence[Sequence[Sequence[float]]], width: int) -> Content:
        """From each item's list of vectors; an item may have none.

        Raises:
            ValueError: a vector is not ``width`` wide, or not finite (names the row).
        """
        most = max((len(vectors) for vectors in tokens), default=0)
        out = np.zeros((len(tokens), max(most, 1), width), np.float32)
        mask = np.zeros(out.shape[:2], np.bool_)
        for row, vectors in enumerate(tokens):
            for position, vector in enumerate(vectors):
                if len(vector) != width:
                    raise ValueError(f"content vectors must be {width} wide, row {row} has one of {len(vector)}")
                out[row, position] = vector
                mask[row, position] = True
        return Content.of(out, mask)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def width(self) -> int:
        """d, the width of a token."""
        return int(self.tokens.shape[2])

    def take(self, rows: npt.NDArray[np.integer]) -> Content:
        """Some of the items, in that order."""
        return Content(self.tokens[rows], self.mask[rows])

    def pooled(self) -> Floats:
        """The mean of each item's tokens (N, d), zero for an item without any."""
        count = self.mask.sum(1, keepdims=True)
        return np.asarray(self.tokens.sum(1) / np.maximum(count, 1), np.float32)
