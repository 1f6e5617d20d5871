"""Sample items of SID prefixes, coarse to fine (OneRec technical report, the tokenizer's qualitative figure)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.messages import Item
from tokenizer_job.quality.prefixes import item_categories
from tokenizer_job.quantizers import Quantizer

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Prefix:
    """A SID prefix as a person looks at it."""

    codes: tuple[int, ...]
    items: int
    category: str
    """The most common one; "" when no item has any."""
    category_share: float
    """Of the prefix's items that have a category."""
    children: list[Prefix] = field(default_factory=list)
    examples: list[Item] = field(default_factory=list)


def sample_prefixes(
    quantizer: Quantizer,
    vectors: Floats,
    sids: Codes,
    items: list[Item],
    *,
    prefixes: int = 8,
    children: int = 3,
    examples: int = 4,
) -> list[Prefix]:
    """The prefixes of one code with the most items, of each the children with the most, of each the most central items.

    Central: nearest to the vector that the child's prefix decodes to. Ties go to the lower code and the earlier item.
    With one level a prefix is its own only child.
    """
    categories = item_categories(items)
    depth = min(2, quantizer.levels)
    found = []
    for rows in _largest(sids[:, 0], np.arange(len(sids)), prefixes):
        below = []
        for inner in _largest(sids[:, depth - 1], rows, children):
            error = vectors[inner] - quantizer.decode(sids[inner, :depth])
            central = inner[np.argsort((error**2).sum(1), kind="stable")[:examples]]
            below.append(_prefix(sids[inner[0], :depth], inner, categories, examples=[items[row] for row in central]))
        found.append(_prefix(sids[rows[0], :1], rows, categories, children=below))
    return found


def _largest(codes: npt.NDArray[np.int32], rows: Ints, count: int) -> list[Ints]:
    """The rows of each of the codes that most of the rows have, the most common first."""
    values, sizes = np.unique(codes[rows], return_counts=True)
    return [rows[codes[rows] == value] for value in values[np.argsort(-sizes, kind="stable")[:count]]]


def _prefix(
    codes: npt.NDArray[np.int32],
    rows: Ints,
    categories: list[str],
    children: list[Prefix] | None = None,
    examples: list[Item] | None = None,
) -> Prefix:
    counted = Counter(sorted(categories[row] for row in rows if categories[row]))  # sorted: ties go by name
    category, most = counted.most_common(1)[0] if counted else ("", 0)
    share = most / max(counted.total(), 1)
    return Prefix(tuple(codes.tolist()), len(rows), category, share, children or [], examples or [])
