from __future__ import annotations

from pathlib import Path

import pytest

from common.messages import Recommendation, RecommendRequest, RecommendResponse
from common.session_log import SessionLog
from common.settings import load_settings
from common.stream import create_topics
from deploy.data.simulator import simulate
from deploy.local.arm_traffic import Traffic, send_traffic
from deploy.local.processes import free_port
from deploy.local.run_folder import RunFolder, write_json

SIZE = ["simulator.items=300", "simulator.users=60", "simulator.requests_per_user=20", "simulator.days=8"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> SessionLog:
    path = tmp_path_factory.mktemp("traffic") / "log"
    simulate(load_settings(overrides=SIZE), path, lambda _: None)
    return SessionLog.open(path)


def listed(request: RecommendRequest) -> RecommendResponse:
    items = [Recommendation(item_id=k, generated=[-1.0, -2.0]) for k in (5, 3, 9)]
    return RecommendResponse(items=items, source="generated", degraded=False, index_version=1, arm="new")


def test_a_user_answers_what_they_get_and_tells_the_arm(log: SessionLog) -> None:
    traffic = Traffic(log, 4, seed=1)
    user = traffic.users(5)[0]
    first, second = (traffic.session(user, number, listed, "x") for number in (0, 1))
    assert (first.arm, first.user_id, first.session_id) == ("new", user, f"x-{user}-0")
    assert [(one.item_id, one.generated) for one in first.impressions] == [(k, [-1.0, -2.0]) for k in (5, 3, 9)]
    assert first.play_ms > 0
    assert log.day_of(first.time_ms) == log.day_of(second.time_ms) == 4
    assert second.time_ms > first.time_ms
    assert traffic.seen[user].item_id.tolist()[-6:] == [5, 3, 9, 5, 3, 9]


def test_the_same_seed_gives_the_same_answers_and_other_users_others(log: SessionLog) -> None:
    one, again = Traffic(log, 4, seed=1), Traffic(log, 4, seed=1)
    users = one.users(2)
    assert again.users(2) == users
    told = [traffic.session(user, 0, listed, "x") for traffic in (one, again) for user in users]
    assert told[:2] == told[2:]
    assert told[0].impressions != told[1].impressions


def test_without_an_endpoint_it_says_so(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", load_settings(overrides=SIZE), {})
    with pytest.raises(ValueError, match=r"no recommend endpoint that runs: start it with --set recommend\.on=true"):
        send_traffic(run, 1, 1, lambda _: None)


def test_an_endpoint_that_is_gone_is_told(tmp_path: Path, log: SessionLog, kafka: str) -> None:
    """Its ready file outlives it."""
    run, prefix = RunFolder.create(tmp_path / "run", load_settings(overrides=SIZE), {}), f"gone{free_port()}"
    run.log.symlink_to(log.path)
    create_topics(kafka, prefix, 2, 10.0)
    write_json(run.endpoints, {"run": "r", "kafka": kafka, "prefix": prefix, "reward": "http://127.0.0.1:1"})
    url = f"http://127.0.0.1:{free_port()}"
    write_json(run.ready_file("recommend"), {"url": url})
    with pytest.raises(ValueError, match=rf"^the recommend endpoint at {url} did not answer: .*Connection refused"):
        send_traffic(run, 1, 1, lambda _: None)
