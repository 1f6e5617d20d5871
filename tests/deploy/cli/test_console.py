from __future__ import annotations

from pathlib import Path

import pytest

from deploy.cli.console import existing_runs, shipped_profiles


def test_run_folders_are_completed_below_what_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for run in ("runs/monday", "runs/tuesday", "elsewhere/monday"):
        Path(run).mkdir(parents=True)
        (Path(run) / "settings.json").touch()
    Path("runs/no-run").mkdir()
    assert existing_runs("") == existing_runs("runs/") == ["runs/monday", "runs/tuesday"]
    assert existing_runs("runs/t") == ["runs/tuesday"]
    assert existing_runs("elsewhere/") == ["elsewhere/monday"]
    assert existing_runs("absent/x") == []


def test_shipped_profiles_are_completed() -> None:
    assert {"demo", "kuairand", "amazon"} <= set(shipped_profiles(""))
    assert shipped_profiles("am") == ["amazon"]
