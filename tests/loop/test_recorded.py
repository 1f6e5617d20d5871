"""A real run of the loop, recorded while it trained by reinforcement and lost its trainer, is trained again bit for bit."""

from __future__ import annotations

import os
import secrets
import signal
from pathlib import Path

import pytest

from common.stream import create_topics
from deploy.local.run_folder import read_json
from tests.deploy.cli.in_process import onerec
from tests.loop.up import UNTRAINED, Up, read_lines
from trainer.bundle import Bundle
from trainer.checkpoint import load

SESSIONS = 50_000
SIZE = {
    "evaluation.bootstrap": 10,
    "simulator.users": 1000,
    "simulator.requests_per_user": 102,
    "simulator.days": 6,
    "split.stream_days": 3,
    "trainer.batch_sessions": 50,
    "sync.every": 200,
    "sync.max_lag": 20,  # no checkpoint is dropped
    "rl.rate": 0.02,
    "recommend.on": "false",
    "reward.online.publish_every": 0,
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_thousand_sessions_with_rollouts(tmp_path: Path, kafka: str, capsys: pytest.CaptureFixture[str]) -> None:
    """From the bundle alone, and from topics that its records were put on again."""
    changes = [text for key, value in SIZE.items() for text in ("--set", f"{key}={value}")]
    up = Up.start(tmp_path, "--kafka", kafka, *UNTRAINED, *changes)
    try:
        up.until(lambda: len(read_lines(up.run.path / "journal.jsonl")) >= 300, patience_s=1800)
        os.kill(read_json(up.run.processes)["trainer"], signal.SIGKILL)
        assert up.process.wait(1800) == 0, up.output.read_text()
    finally:
        up.process.kill()
        up.process.wait()
    path, prefix = tmp_path / "bundle", f"again{secrets.token_hex(4)}"
    done = onerec(capsys, "bundle", path, "--run-folder", up.run.path, "--from", 0)
    assert done.code == 0, done.err
    bundle = Bundle.open(path)
    assert bundle.manifest.sessions >= SESSIONS
    _is_trained_again(capsys, path)
    create_topics(kafka, prefix, up.run.settings.stream.partitions, 30.0)
    for name in ("sessions", "rollout-groups"):
        file = path / f"{name}.jsonl.gz"
        assert onerec(capsys, "replay", file, "--to-topic", name, "--kafka", kafka, "--prefix", prefix).code == 0
    _is_trained_again(capsys, path, "--kafka", kafka, "--prefix", prefix)
    state = load(path / "checkpoints", bundle.manifest.last).state
    assert state.counters["sessions.consumed"] == bundle.manifest.sessions
    assert state.counters["groups.trained"] > 100
    assert len(state.versions) > 4


def _is_trained_again(capsys: pytest.CaptureFixture[str], path: Path, *where: str) -> None:
    done = onerec(capsys, "train", "--replay", path, *where)
    assert (done.code, done.out.partition(":")[0]) == (0, "bit for bit as recorded"), done
