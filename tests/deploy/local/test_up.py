"""How `onerec up` says that it has ended."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.settings import load_settings
from deploy.local import up
from deploy.local.phase import read_phase
from deploy.local.run_folder import RunFolder


def test_a_report_that_fails_is_a_failure_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop itself is left out."""

    def enter_phases(_run: RunFolder, view: Any, phases: list[tuple[str, Any]]) -> None:
        for name, _ in phases:
            view.phase(name)

    def no_report(*_: object) -> None:
        raise OSError("No space left on device")

    brokers = SimpleNamespace(start_brokers=lambda: None)
    monkeypatch.setattr(up, "Stack", lambda *_: nullcontext(brokers))
    monkeypatch.setattr(up, "_lanes", enter_phases)
    monkeypatch.setattr(up, "_stream", lambda *_: None)
    monkeypatch.setattr(up, "_hide_environment", lambda: None)
    monkeypatch.setattr(up, "finish", no_report)
    with pytest.raises(OSError, match="No space left"):
        up.run_loop({"kind": "simulate", "path": ""}, load_settings("test"), tmp_path / "run", None, 0.0)
    phase = read_phase(RunFolder(tmp_path / "run"))
    assert phase is not None
    assert (phase.ended, phase.reason) == ("failed", "No space left on device")
