"""What `benchmarks.index` runs in a process of its own: a synthetic catalogue, its index, snapshots of it.

``python -m benchmarks.index_build FOLDER ITEMS`` prints seconds and peak memory as JSON. It imports no torch, so that the
memory is the index's.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.item_index import ItemColumns, ItemIndex, snapshot_path

CODES, LEVELS, TAGS, WIDTH = 8192, 3, 2, 64
SNAPSHOTS = 3
"""Versions saved: the first to begin with, one to swap to, one whose arrival lets the first go."""


def catalogue(items: int, seed: int = 0) -> ItemColumns:
    """Items by ascending id with independent random codes: nearly all prefixes are distinct, the largest trie there is."""
    rng = np.random.default_rng(seed)
    return {
        "item_ids": np.cumsum(rng.integers(1, 5, items)),
        "sids": rng.integers(0, CODES, (items, LEVELS), np.int32),
        "author": rng.integers(0, 1_000_000, items),
        "tags": rng.integers(-1, 1000, (items, TAGS)),
        "music": rng.integers(0, 1_000_000, items),
        "duration_ms": rng.integers(1000, 300_000, items),
        "publish_ms": rng.integers(1, 10**12, items),
        "popularity": rng.integers(0, 1000, items).astype(np.float32),
        "vectors": rng.random((items, WIDTH), np.float32),
    }


def peak_gib() -> float:
    """The most memory this process has had resident (Linux: VmHWM, which a parent's memory does not touch), GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def main(folder: Path, items: int) -> dict[str, float]:
    """Build the index, save it as versions 1..`SNAPSHOTS` below ``folder``; what that took."""
    columns = catalogue(items)
    columns_gib = peak_gib()
    began = time.perf_counter()
    index = ItemIndex.build(1, "bench", CODES, **columns)
    built = time.perf_counter()
    index.save(snapshot_path(folder, 1))
    saved, peak = time.perf_counter(), peak_gib()
    for version in range(2, SNAPSHOTS + 1):
        replace(index, version=version).save(snapshot_path(folder, version))
    return {"build_s": built - began, "save_s": saved - built, "peak_gib": peak, "columns_gib": columns_gib}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
