"""What the environment says of whom a process may talk to."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.access import AccessError, access


def given(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"ONEREC_ACCESS_{name}", value)


def test_nothing_given_is_plain_and_without_a_token() -> None:
    assert access().kafka_client() == {"security_protocol": "PLAINTEXT"}
    assert access().caller_headers() == {}


def test_all_of_a_secured_broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("swordfish\n")
    given(
        monkeypatch,
        KAFKA_PROTOCOL="SASL_SSL",
        KAFKA_CA="/ca.pem",
        KAFKA_USERNAME="trainer",
        KAFKA_PASSWORD_FILE=str(tmp_path / "password"),
        SERVICE_TOKEN="open-sesame",
    )
    assert access().kafka_client() == {
        "security_protocol": "SASL_SSL",
        "ssl_cafile": "/ca.pem",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "trainer",
        "sasl_plain_password": "swordfish",
    }
    assert access().caller_headers() == {"authorization": "Bearer open-sesame"}
    assert "swordfish" not in repr(access())
    assert "open-sesame" not in repr(access())


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"KAFKA_PROTOCOL": "TLS"}, "ONEREC_ACCESS_KAFKA_PROTOCOL: Input should be 'PLAINTEXT', 'SSL'"),
        ({"KAFKA_PASSWRD": "secret"}, "unknown variable ONEREC_ACCESS_KAFKA_PASSWRD"),
        ({"KAFKA_PROTOCOL": "SASL_SSL", "KAFKA_USERNAME": "a"}, "must be given for SASL protocols"),
        ({"KAFKA_USERNAME": "a", "KAFKA_PASSWORD": "secret"}, "got protocol PLAINTEXT"),
        ({"KAFKA_PROTOCOL": "SSL", "KAFKA_KEY": "/key"}, "must be given together"),
        ({"SERVICE_TOKEN_FILE": "/nowhere"}, "ONEREC_ACCESS_SERVICE_TOKEN_FILE: /nowhere cannot be read: No such file"),
    ],
)
def test_what_cannot_be_used_is_named_without_its_secret(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str
) -> None:
    given(monkeypatch, **variables)
    with pytest.raises(AccessError) as caught:
        access()
    assert told in str(caught.value)
    assert "secret" not in str(caught.value).replace("ONEREC_ACCESS_KAFKA_PASSWRD", "")


def test_a_value_and_a_file_for_it_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one")
    given(monkeypatch, SERVICE_TOKEN="two", SERVICE_TOKEN_FILE=str(tmp_path / "token"))
    with pytest.raises(AccessError, match="are both given"):
        access()
