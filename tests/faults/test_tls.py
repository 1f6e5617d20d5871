"""The loop's connections with TLS, which a proxy ends before the embedded servers."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import trustme

from common.parameter_channel import Follower, Publisher
from common.stream import LogReader, Producer, create_topics, topic_name
from deploy.local.embedded import start_kafka
from deploy.local.processes import free_port
from tests.faults.proxy import Proxy


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the authority, as clients are given it."""
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def server_side(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def secured_kafka(
    server_side: ssl.SSLContext, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    port = free_port()
    proxy = Proxy(("127.0.0.1", port), server_side)
    monkeypatch.setenv("ONEREC_ACCESS_KAFKA_PROTOCOL", "SSL")
    monkeypatch.setenv("ONEREC_ACCESS_KAFKA_CA", str(certificate))
    broker = start_kafka(tmp_path / "kafka", tmp_path / "kafka.log", port, advertised=proxy.address)
    yield broker.address
    broker.child.terminate(5.0)
    proxy.close()


def test_records_go_through_tls(secured_kafka: str) -> None:
    create_topics(secured_kafka, "tls", 1, 10.0)
    topic = topic_name("tls", "sessions")
    producer = Producer(secured_kafka, 10.0)
    producer.send(topic, b"hello", 0)
    producer.close()
    reader = LogReader(secured_kafka, topic, {0: 0}, 10.0)
    try:
        found = reader.poll(1, 10.0)
    finally:
        reader.close()
    assert [record.value for record in found] == [b"hello"]


def test_a_broker_whose_certificate_another_authority_signed_is_refused(
    secured_kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    monkeypatch.setenv("ONEREC_ACCESS_KAFKA_CA", str(other))
    command = ["topics", "create", "--kafka", secured_kafka, "--prefix", "tls", "--timeout", "2"]
    # a process of its own, because kafka-python leaves sockets whose handshake failed to the garbage collector
    done = subprocess.run([sys.executable, "-m", "deploy.cli.main", *command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"Kafka at {secured_kafka}" in done.stderr
    assert "Traceback" not in done.stderr


def test_parameters_go_through_tls(server_side: ssl.SSLContext, certificate: Path, redis_url: str, tmp_path: Path) -> None:
    plain = urlsplit(redis_url)
    assert plain.port
    proxy = Proxy(("127.0.0.1", plain.port), server_side)
    url = f"rediss://:{plain.password}@{proxy.address}/0?ssl_ca_certs={certificate}"
    publisher = Publisher(url, "tls", 60, 5.0)
    follower = Follower(url, "tls", "reader", 5.0, tmp_path)
    blob = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"
    try:
        publisher.publish(1, blob)
        found = follower.fetch_newer(-1)
        assert found is not None
        assert (found[0], bytes(found[1])) == (1, blob)
        assert proxy.accepted >= 2
        with pytest.raises(redis.ConnectionError), redis.Redis.from_url(url.split("?")[0]) as distrustful:
            distrustful.ping()
    finally:
        follower.close()
        publisher.close()
        proxy.close()
