"""What an endpoint's histories begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.history import HistoryStore
from rollout.recommend.sessions import _begin
from tests.factories import make_events


def test_what_the_log_has_lost_is_passed_over_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with HistoryStore(tmp_path / "history.sqlite") as history:
        assert _begin(history, 0, 0) == 0
        assert not caplog.records
        assert _begin(history, 0, 7) == 7
        assert "histories lack the sessions from 0 on" in caplog.text
        assert history.append(0, 7, 1, make_events(1))
        history.advance(0, 8, 7)
        assert len(history.as_of(1, 0, 8, 10)) == 1
        assert _begin(history, 0, 7) == 8
