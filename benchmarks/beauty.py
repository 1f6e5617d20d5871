"""The catalogue of Amazon Beauty as benchmarks use it: text vectors and categories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploy.data.amazon import CONTENT, ITEMS, LEVEL_SEPARATOR, Listed
from deploy.data.tables import read_json_lines, require_files


def read_vectors(data: Path) -> npt.NDArray[np.float32]:
    """Text vectors (items, width); row k is of item k + 1.

    Raises:
        ValueError: the folder is not Amazon's (names what is missing).
    """
    require_files(data, "an Amazon reviews", (CONTENT,))
    return np.asarray(np.load(data / CONTENT, allow_pickle=False), np.float32)


def read_categories(data: Path) -> list[str]:
    """Each item's category path, "" where it has none; entry k is of item k + 1.

    Raises:
        ValueError: the folder is not Amazon's (names what is missing), or a line is damaged.
    """
    require_files(data, "an Amazon reviews", (ITEMS,))
    lines = sorted(read_json_lines(data / ITEMS, Listed), key=lambda line: line.item)
    return [LEVEL_SEPARATOR.join(line.path) for line in lines]
