from __future__ import annotations

import argparse
import socket

import httpx
import pytest

from common import metrics
from common.probes import LIVE_S, Pulse, add_arguments, serve, url_of


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def get(url: str, path: str) -> httpx.Response:
    return httpx.get(url.removesuffix("/metrics") + path, timeout=5.0)


def test_a_loop_that_hangs_is_not_live_and_one_that_starts_is_not_ready() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    clock.now += 10 * LIVE_S  # a long start is no hanging loop
    assert (pulse.live, pulse.ready) == (True, False)
    pulse.beat()
    pulse.able = True
    clock.now += LIVE_S - 1
    assert (pulse.live, pulse.ready) == (True, True)
    clock.now += 1
    assert (pulse.live, pulse.ready) == (False, False)
    pulse.beat()
    assert (pulse.live, pulse.ready) == (True, True)
    pulse.able = False
    assert (pulse.live, pulse.ready) == (True, False)


def test_probes_are_answered_by_what_the_loop_does() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    url = serve("127.0.0.1", 0, pulse)
    assert (get(url, "/livez").status_code, get(url, "/readyz").status_code) == (200, 503)
    pulse.beat()
    pulse.able = True
    assert get(url, "/readyz").status_code == 200
    clock.now += LIVE_S
    assert (get(url, "/livez").status_code, get(url, "/readyz").status_code) == (503, 503)
    assert get(url, "/elsewhere").status_code == 404


def test_what_was_counted_is_shown_on_a_port_of_its_own() -> None:
    before = metrics.TRAINER_GROUPS.labels("stale")._value.get()
    metrics.TRAINER_GROUPS.labels("stale").inc(2)
    text = httpx.get(serve("127.0.0.1", 0), timeout=5.0).text
    assert f'onerec_trainer_groups_total{{reason="stale"}} {before + 2}' in text
    assert "process_resident_memory_bytes" in text
    assert metrics.render().decode().count("# HELP onerec_") == text.count("# HELP onerec_")


def test_ranks_of_one_machine_take_a_port_each(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free: int = probe.getsockname()[1]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert serve("127.0.0.1", free - 1) == f"http://127.0.0.1:{free}/metrics"


def test_who_listens_everywhere_is_found_by_the_machines_name() -> None:
    assert url_of("0.0.0.0", 80) == url_of("::", 80) == f"http://{socket.gethostname()}:80"  # noqa: S104
    assert url_of("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert url_of("::1", 80) == "http://[::1]:80"


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_a_port_out_of_range_is_one_clear_line(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(prog="worker")
    add_arguments(parser)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([f"--metrics-port={port}"])
    assert ended.value.code == 2
    assert f"--metrics-port: must be a port from 0 to 65535, got '{port}'" in capsys.readouterr().err
