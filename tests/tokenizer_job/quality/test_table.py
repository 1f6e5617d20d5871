from __future__ import annotations

import io

import numpy as np
from rich.console import Console

from tokenizer_job.quality.report import assess
from tokenizer_job.quality.table import report_table
from tokenizer_job.quantizers.codebooks import ResidualCodebooks


def test_every_level_has_a_column_and_an_appended_one_no_error() -> None:
    model = ResidualCodebooks(np.array([[[0.0], [2.0]]], np.float32))
    sids = np.array([[0, 0], [0, 1], [1, 0]], np.int32)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report_table(assess(model, np.array([[0], [0], [3]], np.float32), sids, ["a", "b", "b"])))
    text = console.export_text()
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if line.count("│") > 2}
    assert "3.333e-01" in lines["MSE per dimension"]
    assert "—" in lines["MSE per dimension"]
    assert "66.7%" in lines["prefix purity"]
    assert "0.0% of items share their ID" in text
