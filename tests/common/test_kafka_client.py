"""Connecting: what is down is passed over, and what is wrong is named."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from common.kafka_client import MOST_TURN_S, StreamError, await_connection


def test_a_broker_that_is_down_costs_its_turn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[tuple[str, int], float]] = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        tried.append((address, timeout))
        if address[0] == "up":
            return socket.socket()
        raise TimeoutError("timed out")

    monkeypatch.setattr("common.kafka_client.socket.create_connection", connect)
    await_connection("down:1, down:2, up:3", 30.0)
    assert tried == [(("down", 1), MOST_TURN_S), (("down", 2), MOST_TURN_S), (("up", 3), MOST_TURN_S)]
    tried.clear()
    await_connection("down:1,up:3", 2.0)
    assert tried == [(("down", 1), 0.5), (("up", 3), 0.5)]


def test_where_nobody_answers_the_addresses_and_the_cause_are_named() -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, not listening
        with pytest.raises(StreamError, match=rf"Kafka at {address},{address} did not answer within 0.2 s: .*refused"):
            await_connection(f"{address},{address}", 0.2)
    with pytest.raises(StreamError, match="must be HOST:PORT"):
        await_connection("broker", 1.0)
