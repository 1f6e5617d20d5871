"""`onerec arms` on a run folder with a topic of sessions."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from common.messages import Impression, Session
from common.settings import load_settings
from common.stream import Producer, create_topics, partition_of, topic_name
from deploy.local.run_folder import RunFolder, write_json
from tests.deploy.cli.test_cli import is_told, onerec

ARMS = "recommend.arms=[{name='new'},{name='old'}]"


def started(folder: Path, kafka: str) -> RunFolder:
    """A run of two partitions, as `onerec up` leaves it once its topics are there."""
    run, prefix = RunFolder.create(folder, load_settings(overrides=["stream.partitions=2", ARMS]), {}), f"a{uuid4().hex[:8]}"
    create_topics(kafka, prefix, 2, 10.0)
    write_json(run.endpoints, {"run": "r", "kafka": kafka, "prefix": prefix, "reward": "http://127.0.0.1:1"})
    with closing(Producer(kafka, 10.0)) as producer:
        for user in range(6):
            shown = [Impression(item_id=1, time_ms=1, play_ms=1000 * (1 + user % 2))]
            one = Session(session_id="s", user_id=user, time_ms=1, impressions=shown, arm=("new", "old")[user % 2])
            producer.send(topic_name(prefix, "sessions"), one.to_bytes(), partition_of(user, 2))
    return run


def test_the_command_prints_the_arms_and_writes_their_figures(tmp_path: Path, kafka: str) -> None:
    run = started(tmp_path / "run", kafka)
    done = onerec(tmp_path, "arms", str(run.path), "--json", "arms.json")
    assert done.returncode == 0, done.stderr
    assert "old over new" in done.stdout
    new, old = json.loads((tmp_path / "arms.json").read_text())
    assert (new["arm"], new["users"], new["lifts"]) == ("new", 3, {})
    assert old["lifts"]["play time, s"] == {"percent": 100.0, "low": None, "high": None}


def test_mistakes_are_told(tmp_path: Path, kafka: str) -> None:
    is_told(tmp_path, "arms", "nowhere", about="nowhere is not a run folder")
    run = started(tmp_path / "run", kafka)
    is_told(tmp_path, "arms", str(run.path), "--simulate", "1", about="has no recommend endpoint that runs")
    is_told(tmp_path, "arms", str(run.path), "--json", str(tmp_path), about="--json must be a file, got the folder")
    run.endpoints.unlink()
    is_told(tmp_path, "arms", str(run.path), about="is not a started run: endpoints.json is missing")
