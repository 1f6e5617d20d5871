import time

import pytest

from deploy.data.clock import Clock


def test_a_record_is_due_when_its_share_of_the_logs_time_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 50.0)
    clock = Clock(speed=3600)
    assert clock.ahead_s(1_000_000) == 0  # the first is due at once
    assert clock.ahead_s(1_000_000 + 7_200_000) == 2.0
    monkeypatch.setattr(time, "monotonic", lambda: 53.0)
    assert clock.ahead_s(1_000_000 + 7_200_000) == -1.0


def test_without_a_speed_nothing_waits() -> None:
    clock = Clock(speed=0)
    assert [clock.ahead_s(time_ms) for time_ms in (0, 10**12)] == [0, 0]
