"""The service as a process: it announces itself, scores, and stops cleanly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from common.settings import Settings, save_settings
from tests.reward_service.test_app import request_of

PATIENCE_S = 60.0


def start(run_folder: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "reward_service", "--run-folder", str(run_folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)


def wait_ready(process: subprocess.Popen[str], ready_file: Path) -> dict[str, object]:
    """The ready file's content, once it is there."""
    deadline = time.monotonic() + PATIENCE_S
    while not ready_file.exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline, "the service did not become ready"
        time.sleep(0.02)  # a file of another process: nothing to await
    ready: dict[str, object] = json.loads(ready_file.read_text())
    return ready


def test_the_process_becomes_ready_scores_and_stops_on_sigterm(run_folder: Path) -> None:
    ready_file = run_folder / "ready" / "reward.json"
    process = start(run_folder)
    try:
        ready = wait_ready(process, ready_file)
        assert ready["pid"] == process.pid
        url = str(ready["url"])
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/readyz", timeout=10).status_code == 200
        assert len(httpx.post(f"{url}/v1/score", json=request_of([100, 101]), timeout=10).json()["p_score"]) == 2
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        assert not ready_file.exists()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/livez", timeout=10)
    finally:
        process.kill()
        process.wait()


def test_a_service_with_a_token_scores_for_those_who_show_it(run_folder: Path) -> None:
    process = start(run_folder, ONEREC_ACCESS_SERVICE_TOKEN="open-sesame")
    try:
        url = str(wait_ready(process, run_folder / "ready" / "reward.json")["url"])
        body, shown = request_of([100, 101]), {"authorization": "Bearer open-sesame"}
        assert httpx.post(f"{url}/v1/score", json=body, timeout=10).status_code == 401
        assert httpx.post(f"{url}/v1/score", json=body, headers=shown, timeout=10).status_code == 200
        assert httpx.get(f"{url}/readyz", timeout=10).status_code == 200
    finally:
        process.kill()
        process.communicate()


def test_a_run_without_a_model_is_one_clear_line(tmp_path: Path) -> None:
    save_settings(Settings(), tmp_path / "settings.json")
    process = start(tmp_path)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert (
        errors.strip()
        .splitlines()[-1]
        .endswith(f"ERROR reward_service: {tmp_path / 'reward'} holds no committed preference model")
    )
    assert "Traceback" not in errors
