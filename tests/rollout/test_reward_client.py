"""The reward client against a real HTTP server in a thread."""

import json
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from common.messages import UserContext
from rollout.reward_client import CHUNK, RewardClient, RewardError
from tests.rollout.reward_stub import Reply, RewardStub, scores_of

CONTEXT = UserContext(user_id=1, time_ms=1000)


ClientOf = Callable[[str], RewardClient]


@pytest.fixture
def client_of() -> Iterator[ClientOf]:
    clients: list[RewardClient] = []

    def make(url: str) -> RewardClient:
        clients.append(RewardClient(url, timeout_s=2.0, attempts=3, pause_s=0.001))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_scores_come_back_in_order_with_their_version(client_of: ClientOf) -> None:
    with RewardStub() as stub:
        scores = client_of(stub.url).score(CONTEXT, [5, 3, 9], index_version=1)
    assert scores.rewards == scores_of([5, 3, 9])
    assert scores.reward_version == "stub-1"
    assert stub.requests[0].context == CONTEXT


def test_calls_share_a_connection(client_of: ClientOf) -> None:
    ports = list[int]()
    with RewardStub(hook=lambda _, port: ports.append(port)) as stub:
        client = client_of(stub.url)
        for _ in range(3):
            client.score(CONTEXT, [5], index_version=1)
    assert len(ports) == 3
    assert len(set(ports)) == 1


def test_the_service_may_lie_below_a_path(client_of: ClientOf) -> None:
    with RewardStub() as stub:
        client_of(f"{stub.url}/reward/").score(CONTEXT, [5], index_version=1)
    assert stub.paths == ["/reward/v1/score"]


def test_many_items_are_scored_in_chunks(client_of: ClientOf) -> None:
    items = list(range(CHUNK + 7))
    with RewardStub() as stub:
        scores = client_of(stub.url).score(CONTEXT, items, index_version=1)
    assert scores.rewards == scores_of(items)
    assert [len(request.item_ids) for request in stub.requests] == [CHUNK, 7]


def test_no_items_need_no_call(client_of: ClientOf) -> None:
    with RewardStub() as stub:
        assert client_of(stub.url).score(CONTEXT, [], index_version=1).rewards == []
    assert stub.requests == []


def test_passing_failures_are_retried_and_retry_after_is_honoured(client_of: ClientOf) -> None:
    with RewardStub(script=[Reply(500), Reply(503, headers={"retry-after": "1"})]) as stub:
        started = time.monotonic()
        scores = client_of(stub.url).score(CONTEXT, [1], index_version=1)
    assert scores.rewards == scores_of([1])
    assert time.monotonic() - started >= 1.0


def test_lasting_failures_end_in_an_error_that_names_the_service(client_of: ClientOf) -> None:
    with RewardStub(script=[Reply(503)] * 3) as stub:
        with pytest.raises(RewardError, match=rf"127\.0\.0\.1:{stub.port} answered 503.*after 3 attempts"):
            client_of(stub.url).score(CONTEXT, [1], index_version=1)
        assert len(stub.requests) == 3


def test_a_refusal_is_not_retried(client_of: ClientOf) -> None:
    with RewardStub(script=[Reply(410, body=b"index version gone")]) as stub:
        with pytest.raises(RewardError, match="answered 410: index version gone"):
            client_of(stub.url).score(CONTEXT, [1], index_version=9)
        assert len(stub.requests) == 1


def test_nobody_listening_is_an_error_naming_the_address(client_of: ClientOf) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RewardError, match=rf"127\.0\.0\.1:{port}: NewConnectionError.*after 3 attempts"):
        client_of(f"http://127.0.0.1:{port}").score(CONTEXT, [1], index_version=1)


def test_the_budget_bounds_a_service_that_hangs(client_of: ClientOf) -> None:
    with RewardStub(script=[Reply(delay_s=3.0)]) as stub:
        started = time.monotonic()
        with pytest.raises(RewardError, match=r"ReadTimeout|no time left"):
            client_of(stub.url).score(CONTEXT, [1], index_version=1, budget_s=0.3)
        assert time.monotonic() - started < 2.0
        stub.release()


def body_of(**changes: object) -> bytes:
    whole = {"reward_version": "v", "index_version": 1, "rewards": [0.5, 0.5], "p_score": [0.5, 0.5], "towers": {}}
    return json.dumps(whole | changes).encode()


def test_a_whole_answer_is_taken(client_of: ClientOf) -> None:
    with RewardStub(script=[Reply(body=body_of(rewards=[0.1, 0.2]))]) as stub:
        assert client_of(stub.url).score(CONTEXT, [1, 2], index_version=1).rewards == [0.1, 0.2]


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        body_of(rewards=[0.5]),
        body_of(rewards=[0.5, -1.0]),
        body_of(rewards=[0.5, float("nan")]),
        body_of(rewards=[0.5, None]),
        body_of(reward_version=""),
    ],
)
def test_nonsense_is_an_error_and_never_a_score(body: bytes, client_of: ClientOf) -> None:
    with RewardStub(script=[Reply(body=body)]) as stub, pytest.raises(RewardError, match="answered"):
        client_of(stub.url).score(CONTEXT, [1, 2], index_version=1)


def test_a_version_change_between_chunks_scores_the_group_again(client_of: ClientOf) -> None:
    items = list(range(CHUNK + 1))
    with RewardStub(script=[Reply(version="old"), Reply(version="new"), Reply(version="new"), Reply(version="new")]) as stub:
        scores = client_of(stub.url).score(CONTEXT, items, index_version=1)
    assert scores.reward_version == "new"
    assert len(stub.requests) == 4


def test_a_version_that_keeps_changing_is_an_error(client_of: ClientOf) -> None:
    script = [Reply(version=str(call)) for call in range(6)]
    with RewardStub(script=script) as stub, pytest.raises(RewardError, match="changed its version"):
        client_of(stub.url).score(CONTEXT, list(range(CHUNK + 1)), index_version=1)
