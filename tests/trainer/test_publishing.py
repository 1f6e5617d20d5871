from collections.abc import Iterator
from pathlib import Path
from threading import Condition

import pytest

from common.parameter_channel import ChannelError, LeaseLostError, SupersededError
from tests.trainer.test_checkpoint import make
from trainer import publishing
from trainer.checkpoint import commit
from trainer.publishing import BackgroundPublisher, PublishError


class FakeChannel:
    """Redis' end: remembers versions, and fails as told."""

    def __init__(self) -> None:
        self.published: list[tuple[int, bytes]] = []
        self.errors: list[Exception] = []
        self.missing = True
        self.closed = False
        self.changed = Condition()

    def publish(self, version: int, blob: bytes) -> float:
        with self.changed:
            if self.errors:
                raise self.errors.pop(0)
            self.published.append((version, blob))
            self.missing = False
            self.changed.notify_all()
        return 0.1

    def incomplete(self) -> bool:
        return self.missing

    def renew(self) -> None:
        return

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def channel() -> FakeChannel:
    return FakeChannel()


@pytest.fixture
def publisher(channel: FakeChannel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackgroundPublisher]:
    monkeypatch.setattr(publishing, "LOOK_S", 0.05)
    monkeypatch.setattr(publishing, "BACKOFF_S", 0.05)
    for step in (1, 2):
        commit(tmp_path, make(step))
    publisher = BackgroundPublisher(channel, tmp_path)
    yield publisher
    publisher.close()
    assert channel.closed


def test_the_committed_bytes_are_published(publisher: BackgroundPublisher, channel: FakeChannel) -> None:
    for version in (1, 2):
        publisher.announce(version)
        publisher.wait(5)
    assert channel.published == [(1, b"weights 1"), (2, b"weights 2")]


def test_a_queue_that_comes_back_empty_gets_the_version_again(publisher: BackgroundPublisher, channel: FakeChannel) -> None:
    publisher.announce(2)
    publisher.wait(5)
    channel.missing = True
    with channel.changed:
        assert channel.changed.wait_for(lambda: len(channel.published) == 2, 5)
    assert channel.published[1] == (2, b"weights 2")


def test_a_queue_that_is_away_delays_and_stops_nothing(publisher: BackgroundPublisher, channel: FakeChannel) -> None:
    channel.errors = [ChannelError("Redis at x: refused")] * 3
    publisher.announce(1)
    publisher.wait(5)
    assert channel.published == [(1, b"weights 1")]


def test_waiting_is_bounded_and_says_why(publisher: BackgroundPublisher, channel: FakeChannel) -> None:
    channel.errors = [ChannelError("Redis at x: refused")] * 1000
    publisher.announce(1)
    with pytest.raises(PublishError, match=r"version 1 was not published within 0\.3 s: Redis at x: refused"):
        publisher.wait(0.3)


def test_a_lost_lease_reaches_the_loop(publisher: BackgroundPublisher, channel: FakeChannel) -> None:
    channel.errors = [LeaseLostError("another publisher took it")]
    publisher.announce(1)
    with pytest.raises(LeaseLostError):
        publisher.wait(5)
    with pytest.raises(LeaseLostError):
        publisher.announce(2)


def test_a_version_that_was_overtaken_counts_as_published(publisher: BackgroundPublisher, channel: FakeChannel) -> None:
    channel.missing = False
    channel.errors = [SupersededError("version 1 is older than 2")]
    publisher.announce(1)
    publisher.wait(5)
    publisher.announce(2)
    publisher.wait(5)
    assert channel.published == [(2, b"weights 2")]
