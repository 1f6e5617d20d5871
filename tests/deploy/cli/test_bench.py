from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import benchmarks
from deploy.cli.bench import claims
from deploy.cli.main import app
from tests.deploy.cli.test_cli import is_told, onerec

TINY = '''"""Two is less than three [by far].

More words.
"""

from benchmarks.harness import BenchResult, Claim, Floor


def run(data, on_progress):
    on_progress("counting")
    if not data.is_dir():
        raise ValueError(f"{data} is not a folder")
    details = {"claims": [Claim(claim="two < three", holds=True, figures={"two": 2})]}
    return BenchResult(
        name="tiny-claim", value=2.0, unit="s", rival=3.0, ratio=1.5, spread=(1.25, 1.75),
        floor=Floor(value=1.0, what="one look"), details=details,
    )
'''

KEPT = '''"""Four is even."""

from benchmarks.harness import BenchResult


def run(data, on_progress, cache):
    return BenchResult(name="kept-claim", value=len(list(cache.iterdir())), unit="files")


def plot(axes, result):
    axes.plot([result.value])
    return True
'''


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose only benchmark is ``tiny-claim``."""
    (tmp_path / "tiny_claim.py").write_text(TINY)
    (tmp_path / "helper.py").write_text('"""No benchmark: nothing to run."""\n')
    monkeypatch.setattr(benchmarks, "__path__", [str(tmp_path), *benchmarks.__path__])
    (tmp_path / "kept_claim.py").write_text(KEPT)
    return tmp_path


def test_a_result_is_printed_and_written(tiny: Path) -> None:
    file = tiny / "new" / "result.json"
    done = CliRunner().invoke(app, ["bench", "tiny-claim", "--data", str(tiny), "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert done.stderr == "counting\n"
    for shown in ("tiny-claim", "2 s", "3 s", "1.5 (runs: 1.25 to 1.75)", "1 s: one look", "two < three"):
        assert shown in done.stdout
    written = json.loads(file.read_text())
    assert list(written)[:6] == ["name", "value", "unit", "rival", "ratio", "spread"]
    assert (written["value"], written["floor"]["value"]) == (2.0, 1.0)
    assert written["details"]["claims"] == [{"claim": "two < three", "holds": True, "figures": {"two": 2}}]
    assert written["commit"]
    assert "torch" in written["machine"]


def test_a_long_benchmark_gets_its_cache_and_is_drawn_beside_its_figures(tiny: Path) -> None:
    file, cache = tiny / "results" / "kept.json", tiny / "cache"
    cache.mkdir()
    (cache / "arm").touch()
    done = CliRunner().invoke(app, ["bench", "kept-claim", "--cache", str(cache), "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert json.loads(file.read_text())["value"] == 1.0
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_list_tells_names_and_claims(tiny: Path) -> None:
    assert claims()["tiny-claim"] == "Two is less than three [by far]."
    assert not {"helper", "harness"} & set(claims())
    done = CliRunner().invoke(app, ["bench", "--list"])
    assert "tiny-claim" in done.stdout
    assert "[by far]" in done.stdout


def test_every_shipped_benchmark_states_its_claim() -> None:
    for name, claim in claims().items():
        assert claim.endswith("."), name


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    is_told(tmp_path, "bench", "nothing", about="benchmark 'nothing' does not exist; benchmarks: ")
    is_told(tmp_path, "bench", about="benchmark '' does not exist")


def test_a_missing_data_folder_is_named_before_anything_is_written(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    done = CliRunner().invoke(app, ["bench", "tokenizer-quality", "--data", str(tmp_path / "absent"), "--json", str(file)])
    assert isinstance(done.exception, ValueError)
    assert "absent is not an Amazon reviews folder: missing" in str(done.exception)
    assert not file.exists()


def test_it_has_help(tmp_path: Path) -> None:
    done = onerec(tmp_path, "bench", "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout
