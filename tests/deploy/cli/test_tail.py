from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from common.context import UserEvents
from common.history import HistoryStore
from common.messages import RolloutGroup, Sampler
from common.settings import load_settings, save_settings
from common.stream import Producer, partition_of
from tests.deploy.cli.in_process import is_told, onerec
from tests.deploy.cli.topics import COUNT, TIMEOUT_S, USERS, Topics

Capture = pytest.CaptureFixture[str]
STEP = {"kind": "step", "time_ms": 0, "seconds": 0.01, "targets": 0, "loss_per_level": [], "counters": {}}
GROUP = {"kind": "group", "step": 1, "request": [0, 3], "outcome": "trained", "legal_share": 1.0, "mean_reward": 0.5}
LINES = [GROUP | {"version": 0}, STEP | {"step": 1, "version": 0}, STEP | {"step": 2, "version": 1}]
"""Of a run's statistics."""


@pytest.fixture(scope="module")
def run(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with sessions on its topic, a group for user 3's first session, and one that is no message."""
    folder, topics = tmp_path_factory.mktemp("tail") / "runs" / "one", Topics.make(kafka)
    folder.mkdir(parents=True)
    save_settings(load_settings(), folder / "settings.json")
    endpoints = {"run": "r", "kafka": kafka, "prefix": topics.prefix, "reward": ""}
    (folder / "endpoints.json").write_text(json.dumps(endpoints))
    (folder / "trainer_stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    topics.fill()
    home = partition_of(3, 2)
    offset = next(record.offset for record in topics.records() if record.key == b"3")
    with HistoryStore(folder / "history.sqlite") as history:
        history.append(home, offset, 3, UserEvents.empty())
        history.commit()
    group = RolloutGroup(
        request_id="r", run="r", topic=topics.name(), partition=home, offset=offset, digest="", actor="a",
        parameter_version=7, tokenizer_version="t", index_version=1, sampler=Sampler(), failure="no reward",
        requested_ms=0, produced_ms=0,
    )  # fmt: skip
    with closing(Producer(kafka, TIMEOUT_S)) as producer:
        producer.send(topics.name("rollout-groups"), group.to_bytes(), home)
        producer.send(topics.name("rollout-groups"), b"\xff", home)
    return folder


def shown(capsys: Capture, run: Path, *arguments: object) -> list[str]:
    done = onerec(capsys, "tail", *arguments, "--run-folder", run)
    assert done.code == 0, done.err
    return done.out.splitlines()


def test_the_newest_come_oldest_first(capsys: Capture, run: Path) -> None:
    lines = shown(capsys, run, "sessions", "--last", 3)
    assert [line.split("items ")[1] for line in lines] == [str(COUNT - 3), str(COUNT - 2), str(COUNT - 1)]
    assert len(shown(capsys, run, "sessions")) == 10
    assert shown(capsys, run, "sessions", "--last", 0) == []


def test_of_a_user_an_item_a_version(capsys: Capture, run: Path) -> None:
    assert all(f"user {4}  " in line for line in shown(capsys, run, "sessions", "--user", 4))
    assert len(shown(capsys, run, "sessions", "--user", 4, "--last", 99)) == COUNT // USERS
    assert len(shown(capsys, run, "sessions", "--item", 11, "--last", 99)) == 1
    assert len(shown(capsys, run, "groups", "--user", 3)) == 1
    assert shown(capsys, run, "groups", "--user", 4) == []
    assert len(shown(capsys, run, "groups", "--version", 7)) == 1
    assert shown(capsys, run, "groups", "--version", 8) == []


def test_json_lines_hold_the_message_or_why_it_is_none(capsys: Capture, run: Path) -> None:
    (session,) = map(json.loads, shown(capsys, run, "sessions", "--last", 1, "--json"))
    assert session["message"]["session_id"] == f"s{COUNT - 1}"
    assert session["key"] == str((COUNT - 1) % USERS)
    _, broken = map(json.loads, shown(capsys, run, "groups", "--json"))
    assert (broken["value"], broken["invalid"][:21]) == ("\udcff", "message: Invalid JSON")


def test_metrics_are_the_trainers_steps_and_groups(capsys: Capture, run: Path) -> None:
    assert [json.loads(line) for line in shown(capsys, run, "metrics", "--json")] == LINES
    assert shown(capsys, run, "metrics", "--version", 1) == shown(capsys, run, "metrics", "--last", 1)


def test_without_a_run_folder_the_newest_run_is_shown(
    capsys: Capture, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parents[1])
    assert len(onerec(capsys, "tail", "metrics").out.splitlines()) == 3
    monkeypatch.chdir(tmp_path)
    is_told(capsys, "tail", "metrics", about="there is no run under runs/")


def test_mistakes_are_told(capsys: Capture, run: Path, tmp_path: Path) -> None:
    is_told(capsys, "tail", "everything", about="tail shows one of sessions, groups, requests")
    is_told(
        capsys, "tail", "sessions", "--version", 1, about="--version does not apply to sessions, which takes --user, --item"
    )
    is_told(capsys, "tail", "dead-letters", "--user", 1, about="does not apply to dead-letters, which takes no filter")
    is_told(capsys, "tail", "sessions", "--run-folder", tmp_path, about="is not a run folder")


@contextmanager
def following(run: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "deploy.cli.main", "tail", *arguments, "-f", "--run-folder", str(run)]
    pipe = subprocess.PIPE
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child would inherit that it is ignored
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ)
    signal.signal(signal.SIGINT, heard)
    with process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_what_follows_is_shown_until_it_is_interrupted(run: Path) -> None:
    with following(run, "metrics", "--last", "1", "--json") as process:
        assert json.loads(line_of(process)) == LINES[-1]
        with (run / "trainer_stats.jsonl").open("a") as file:
            file.write(json.dumps(LINES[0]) + "\n")
        assert json.loads(line_of(process)) == LINES[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    (run / "trainer_stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))


def test_new_messages_are_followed_and_a_closed_pipe_is_no_error(run: Path, kafka: str) -> None:
    endpoints = json.loads((run / "endpoints.json").read_text())
    topic = f"{endpoints['prefix']}.items"
    with closing(Producer(kafka, TIMEOUT_S)) as producer, following(run, "items") as process:
        for title in ("first", "second", "third"):
            producer.send(topic, json.dumps({"item": {"item_id": 1, "title": title}}).encode(), 0)
            producer.flush()
            assert line_of(process).rstrip().endswith(title)
        assert process.stdout is not None
        process.stdout.close()
        producer.send(topic, b"{}", 0)
        producer.flush()
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
