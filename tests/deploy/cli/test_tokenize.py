"""`onerec tokenize` on a small log: what it leaves, what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

from common.item_index import ItemIndex, latest_index
from tests.deploy.cli.test_cli import is_told, onerec
from tests.tokenizer_job.tiny_log import ITEMS, make_sessions, write_log

SMALL = ("--set", "policy.codes=16", "--set", "tokenizer.collaborative_width=16", "--set", "tokenizer.content_width=8")


def test_a_log_is_tokenised_with_a_report_and_never_twice(tmp_path: Path) -> None:
    write_log(tmp_path / "log", make_sessions(), content=True)
    done = onerec(tmp_path, "tokenize", "--data", "log", "--out", "out", "--method", "balanced", "--train-days", "2", *SMALL)
    assert done.returncode == 0, done.stderr
    assert f"Semantic IDs of {ITEMS} items" in done.stdout
    assert "out/tokenizer/report.html" in done.stderr
    assert len(ItemIndex.load(latest_index(tmp_path / "out" / "index"))) == ITEMS
    report = json.loads((tmp_path / "out" / "tokenizer" / "report.json").read_text())
    assert report["utilisation"] == [1.0, 1.0, 1.0]
    assert json.loads((tmp_path / "out" / "tokenizer" / "card.json").read_text())["method"] == "balanced"
    page = (tmp_path / "out" / "tokenizer" / "report.html").read_text()
    assert "kind 3" in page
    is_told(tmp_path, "tokenize", "--data", "log", "--out", "out", *SMALL, about="holds an index already")


def test_what_cannot_be_tokenised_is_told(tmp_path: Path) -> None:
    is_told(tmp_path, "tokenize", "--data", "absent", about="absent is not a folder")
    assert "'rq_magic' is not one of" in onerec(tmp_path, "tokenize", "--method", "rq_magic").stderr
    write_log(tmp_path / "log", make_sessions())
    done = onerec(tmp_path, "tokenize", "--data", "log", "--out", "out", "--set", "policy.codes=512")
    assert done.returncode == 2
    assert "distinct" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "index").exists()
