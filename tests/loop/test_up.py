"""The whole system through its front door: `onerec up` with the tiny profile, all real processes, real faults."""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis

from common.item_index import ItemIndex, latest_index, snapshot_path
from common.messages import SCHEMA_VERSION, RecommendResponse
from common.session_log import SessionLog
from common.stream import Producer, partition_of, topic_name, wait_for_broker
from deploy.dashboard.watch import Watch
from deploy.local.run_folder import read_json
from tests.loop.up import UNTRAINED, Up, read_lines

pytestmark = pytest.mark.timeout(400)


def bad_messages() -> dict[str, tuple[bytes, str]]:
    """Name -> (bytes, a part of the reason they are refused for)."""
    impression = {"item_id": 1, "time_ms": 1_704_200_000_000, "play_ms": 10, "duration_ms": 1000}
    good = {"schema_version": SCHEMA_VERSION, "session_id": "bad", "user_id": 1, "time_ms": 1_704_200_000_000}
    good |= {"impressions": [impression]}
    newer = good | {"schema_version": SCHEMA_VERSION + 1}
    variants: dict[str, tuple[dict[str, Any], str]] = {
        "negative duration": (good | {"impressions": [impression | {"duration_ms": -5}]}, "impressions.0.duration_ms"),
        "missing user": ({key: value for key, value in good.items() if key != "user_id"}, "user_id: Field required"),
        "unknown field": (good | {"mood": "sunny"}, "mood: Extra inputs are not permitted"),
        "newer schema": (newer, "upgrade consumers first"),
    }
    out = {name: (json.dumps(body).encode(), reason) for name, (body, reason) in variants.items()}
    out["truncated JSON"] = (json.dumps(good).encode()[:-20], "Invalid JSON")
    out["noise"] = (secrets.token_bytes(256 * 1024), "Invalid JSON")
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, dict[str, Any], dict[str, int]]]:
    """A run that got bad messages and lost five of its workers: the run, its report, the bad messages' offsets."""
    folder = tmp_path_factory.mktemp("up")
    up = Up.start(folder, "--report", str(folder / "report.json"), environment={"ONEREC_LOG_FORMAT": "json"})
    try:
        offsets = _inject(up)
        up.until(lambda: len(read_lines(up.run.path / "journal.jsonl")) >= 10)
        for name in ("reward", "recommend"):
            os.kill(read_json(up.run.processes)[name], signal.SIGKILL)
        up.until(lambda: len(read_lines(up.run.path / "journal.jsonl")) >= 20)
        os.kill(read_json(up.run.processes)["tokenizer"], signal.SIGKILL)
        os.kill(read_json(up.run.processes)["trainer"], signal.SIGSTOP)  # so that the log does not end meanwhile
        lists = _ask_for_a_list(up)
        for name in ("learner", "trainer"):
            os.kill(read_json(up.run.processes)[name], signal.SIGKILL)
        assert up.ended() == 0, up.output.read_text()
        assert len(lists.items) == 5
        yield up, json.loads((folder / "report.json").read_text()), offsets
    finally:
        up.process.kill()
        up.process.wait()


def _ask_for_a_list(up: Up) -> RecommendResponse:
    """What the recommend endpoint, just killed, gives a user of the run when it is there again."""
    replies: list[httpx.Response] = []

    def answered() -> bool:
        ready = up.run.ready_file("recommend")
        if not ready.exists():
            return False
        try:
            url = read_json(ready)["url"]
            replies.append(httpx.post(f"{url}/v1/recommend", json={"user_id": 1, "count": 5}, timeout=15.0))
        except httpx.TransportError:
            return False
        return replies[-1].status_code == 200

    up.until(answered)
    assert f"lists of items at {read_json(up.run.ready_file('recommend'))['url']}" in up.output.read_text()
    return RecommendResponse.model_validate_json(replies[-1].content)


def _inject(up: Up) -> dict[str, int]:
    """Put the bad messages before the first session of their partition."""
    up.until(up.run.endpoints.exists)
    endpoints = read_json(up.run.endpoints)
    producer = Producer(endpoints["kafka"], 15.0)
    topic = topic_name(endpoints["prefix"], "sessions")
    home = partition_of(1, up.run.settings.stream.partitions)
    sent = {name: producer.send(topic, value, home) for name, (value, _) in bad_messages().items()}
    producer.close()
    return {name: future.get(0).offset for name, future in sent.items()}


def test_every_session_counts_exactly_once_although_the_trainer_was_killed(
    finished: tuple[Up, dict[str, Any], dict[str, int]],
) -> None:
    up, report, offsets = finished
    split = up.run.settings.split
    log = SessionLog.open(up.run.log)
    streamed = [s.session_id for s in log.sessions(split.warm_days, split.warm_days + split.stream_days - 1)]
    once = {"trainer": 1, "learner": 1, "tokenizer": 1, "reward": 1, "recommend": 1}
    assert report["restarts"] == once | {"rollout": 0, "redis": 0}
    assert report["sessions"]["valid"] == len(streamed)
    assert report["sessions"]["duplicates"] == 0
    assert report["sessions"]["consumed"] == len(streamed) + len(offsets)
    entries = [line["entry"] for line in read_lines(up.run.path / "journal.jsonl")]
    assert [entry["step"] for entry in entries] == list(range(1, len(entries) + 1))
    taken = [(p, o) for entry in entries for p, (first, end) in entry["ranges"].items() for o in range(first, end)]
    assert len(taken) == len(set(taken)) == report["sessions"]["consumed"]


def test_bad_messages_become_dead_letters_with_position_and_reason(
    finished: tuple[Up, dict[str, Any], dict[str, int]],
) -> None:
    up, report, offsets = finished
    letters = {letter["offset"]: letter for letter in report["dead_letters"]["letters"]}
    assert report["dead_letters"]["count"] == len(offsets) == 6
    for name, (value, reason) in bad_messages().items():
        letter = letters[offsets[name]]
        assert reason in letter["reason"], name
        assert "\n" not in letter["reason"]
        assert letter["topic"].endswith(".sessions")
        assert letter["length"] == len(value)
        assert letter["partition"] == partition_of(1, up.run.settings.stream.partitions)


def test_the_loop_closes(finished: tuple[Up, dict[str, Any], dict[str, int]]) -> None:
    up, report, _ = finished
    published, groups = report["parameters"]["published"], report["groups"]
    assert len(published) >= 3
    assert len(report["parameters"]["used"]) == up.run.settings.rollout.actors
    assert {v for versions in report["parameters"]["used"].values() for v in versions} <= set(published)
    assert groups["trained"] + sum(groups["dropped"].values()) == groups["requested"] > 10
    assert groups["candidates_min"] == groups["candidates_max"] == up.run.settings.rl.group_size
    assert report["parity"]["mean_abs_ratio_error"] < 1e-3
    assert report["latency_ms"]["version_to_actor"]["p50"] > 0
    assert 0 < report["legality"]["first"] < 1
    assert report["retrieval"]["users"] > 0
    for key in ("next_day_before", "next_day_after"):
        assert report["loss"][key] > 0
    assert len(report["reward"]["model_versions"]) > 1  # the learner's versions were served
    assert len(list(up.run.report.glob("*.png"))) == 9


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["lazy_decoder", "session_decoder"])
def test_the_loop_closes_around_another_architecture(tmp_path: Path, architecture: str) -> None:
    up = Up.start(tmp_path, "--set", f"policy.architecture={architecture}", "--report", str(tmp_path / "report.json"))
    try:
        assert up.ended() == 0, up.output.read_text()
    finally:
        up.process.kill()
        up.process.wait()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["groups"]["trained"] > 10
    assert report["parity"]["mean_abs_ratio_error"] < 1e-3
    assert report["staleness"]["max"] <= up.run.settings.sync.max_lag


@pytest.mark.slow
def test_the_loop_closes_around_a_trainer_on_two_ranks_although_it_is_killed(tmp_path: Path) -> None:
    up = Up.start(tmp_path, "--set", "trainer.ranks=2", "--report", str(tmp_path / "report.json"))
    try:
        up.until(lambda: len(read_lines(up.run.path / "journal-1.jsonl")) >= 10)
        rank = psutil.Process(read_json(up.run.processes)["trainer"]).children()[1]  # of torchrun
        rank.kill()
        assert up.ended() == 0, up.output.read_text()
    finally:
        up.process.kill()
        up.process.wait()
    report = json.loads((tmp_path / "report.json").read_text())
    split = up.run.settings.split
    streamed = list(SessionLog.open(up.run.log).sessions(split.warm_days, split.warm_days + split.stream_days - 1))
    assert report["restarts"]["trainer"] == 1
    assert (report["sessions"]["valid"], report["sessions"]["duplicates"]) == (len(streamed), 0)
    groups = report["groups"]
    assert groups["trained"] + sum(groups["dropped"].values()) == groups["requested"] > 10
    assert report["parity"]["mean_abs_ratio_error"] < 1e-3
    assert up.survivors() == []


def test_new_items_are_indexed_once_and_used_without_a_restart(
    finished: tuple[Up, dict[str, Any], dict[str, int]],
) -> None:
    up, report, _ = finished
    items = SessionLog.open(up.run.log).items()
    first = ItemIndex.load(snapshot_path(up.run.index, 1))
    newest = ItemIndex.load(latest_index(up.run.index))
    assert 0 < len(first) < len(items) == len(newest)
    assert report["index"]["new_items"] == len(items) - len(first)
    assert (newest.sids[newest.rows(first.item_ids)] == first.sids).all()
    assert report["index"]["in_force"][-1] > 1
    assert sum(report["index"]["groups_trained"].values()) == report["groups"]["trained"]


def test_every_worker_logs_one_json_object_a_line(finished: tuple[Up, dict[str, Any], dict[str, int]]) -> None:
    up, report, _ = finished
    lines = {
        worker: [json.loads(line) for line in up.run.log_file(worker).read_text().splitlines()]
        for worker in ("trainer", "learner", "tokenizer", "rollout", "reward", "recommend")
    }
    name = read_json(up.run.endpoints)["run"]
    for worker, said in lines.items():
        assert {line["run"] for line in said} <= {name, ""}, worker
        assert any(line["message"].startswith("started: version ") for line in said), worker
    published = {line["version"] for line in lines["trainer"] if line["message"].endswith(" is published")}
    assert set(report["parameters"]["published"]) <= published
    actors = {line["process"] for line in lines["rollout"] if "takes up parameter version" in line["message"]}
    assert actors == {"rollout-0", "rollout-1"}


def test_who_looks_at_the_finished_run_sees_the_figures_of_its_report(
    finished: tuple[Up, dict[str, Any], dict[str, int]],
) -> None:
    up, report, offsets = finished
    with Watch(up.run) as watch:
        state = watch.look()
    figures = state.figures
    assert (state.stage, state.problems(), state.letters.count) == ("finished", [], len(offsets))
    assert (figures.sessions, figures.kept) == (report["sessions"]["consumed"], report["sessions"]["kept"])
    assert (figures.requested, figures.trained) == (report["groups"]["requested"], report["groups"]["trained"])
    assert (figures.step, figures.version) == (report["samples"]["steps"], report["parameters"]["published"][-1])
    assert {part.name: part.restarts for part in state.parts if part.restarts} == {
        name: count for name, count in report["restarts"].items() if count
    }


def test_nothing_is_left_running_and_only_the_owner_may_read(
    finished: tuple[Up, dict[str, Any], dict[str, int]],
) -> None:
    up, _, _ = finished
    assert up.survivors() == []
    assert up.run.path.stat().st_mode & 0o777 == 0o700
    secret = b"redis://:"
    assert not [path for path in up.run.path.rglob("*.json") if secret in path.read_bytes()]


def test_a_run_that_is_killed_while_streaming_leaves_nothing_running(tmp_path: Path) -> None:
    up = Up.start(tmp_path, *UNTRAINED, "--speed", "3600", "--set", "dashboard.on=true")
    try:
        up.until(lambda: len(read_lines(up.run.path / "trainer_stats.jsonl")) >= 2)
        assert {"kafka", "redis", "reward", "trainer", "rollout", "dashboard"} <= read_json(up.run.processes).keys()
        _is_seen_from_all_sides(up)
    finally:
        up.process.kill()
    assert up.ended() == -signal.SIGKILL
    assert up.survivors() == []
    with Watch(up.run) as watch:
        assert watch.look().problems() == ["the run was killed while streaming"]


def _is_seen_from_all_sides(up: Up) -> None:
    """All parts answer whoever watches, and the page shows the same."""
    with Watch(up.run) as watch:
        up.until(lambda: watch.look().figures.step_ms is not None)
        seen = watch.look()
        up.until(lambda: (watch.look().rates["users"] or 0) > 0)
    assert {part.state for part in seen.parts} == {"ready"}
    assert (seen.stage, seen.problems(), seen.letters.count) == ("streaming", [], 0)
    assert None not in seen.lag.values()
    page = read_json(up.run.ready_file("dashboard"))["url"]
    assert f"the loop as a page at {page}" in up.output.read_text()
    state = httpx.get(f"{page}/state", timeout=15.0).json()
    assert {part["state"] for part in state["parts"]} == {"ready"}
    assert state["figures"]["step"] >= (seen.figures.step or 0) > 0
    assert httpx.get(f"{page}/sample?user=1", timeout=30.0).text.count("<li>") >= 10


def test_an_interrupted_run_stops_its_workers_and_leaves_existing_servers_alone(
    tmp_path: Path, kafka: str, redis_url: str
) -> None:
    """The run uses a Kafka and a Redis that exist; Ctrl-C while streaming."""
    up = Up.start(tmp_path, "--kafka", kafka, *UNTRAINED, "--speed", "3600", environment={"ONEREC_REDIS__URL": redis_url})
    try:
        up.until(lambda: len(read_lines(up.run.path / "trainer_stats.jsonl")) >= 2)
        assert read_json(up.run.processes).keys() == {
            "reward",
            "trainer",
            "learner",
            "tokenizer",
            "rollout",
            "recommend",
            "replay",
        }
        up.process.send_signal(signal.SIGINT)
        assert up.ended() == 130
        with Watch(up.run) as watch:
            assert watch.look().problems() == ["the run was interrupted while streaming"]
    finally:
        up.process.kill()
    assert up.survivors() == []
    assert f"what there is lies in {up.run.path}" in up.output.read_text()
    wait_for_broker(kafka, 5.0)
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
