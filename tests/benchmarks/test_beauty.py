from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.beauty import read_categories, read_vectors


def test_rows_are_in_the_order_of_the_items(tmp_path: Path) -> None:
    lines = [
        {"item": 2, "categories": [["Beauty"], ["Beauty", "Hair"]]},
        {"item": 3, "categories": None},
        {"item": 1, "categories": [["Soap"]]},
    ]
    (tmp_path / "items.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    assert read_categories(tmp_path) == ["Soap", "Beauty > Hair", ""]
    np.save(tmp_path / "minilm_l6_v2_f16.npy", np.array([[0.5, 0.25]], np.float16))
    vectors = read_vectors(tmp_path)
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[0.5, 0.25]]


def test_another_folder_is_told_by_name(tmp_path: Path) -> None:
    for read in (read_vectors, read_categories):
        with pytest.raises(ValueError, match=r"absent is not an Amazon reviews folder: missing"):
            read(tmp_path / "absent")
