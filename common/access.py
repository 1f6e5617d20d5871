"""Who this process is to others and who may talk to it: from its environment alone, never from a run's settings.

Secrets stay out of files that are shared, and where a machine keeps its certificates is a fact of that machine, not of a
run. Every variable may instead name a file that holds the value, as containers mount secrets:
``ONEREC_ACCESS_KAFKA_PASSWORD_FILE``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, model_validator

PREFIX = "ONEREC_ACCESS_"
BEHIND_FILE = "_FILE"


class AccessError(ValueError):
    """The environment cannot be used: names the variable and what is accepted, never a secret."""


class Access(BaseModel):
    """The variables, without `PREFIX` and in lower case. Read them with `access`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kafka_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_ca: Path | None = None
    """The authority that signed the brokers' certificates; None: those that the machine trusts."""
    kafka_certificate: Path | None = None
    kafka_key: Path | None = None
    """Of this client, where brokers ask for them."""
    kafka_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_username: str = ""
    kafka_password: SecretStr = SecretStr("")
    service_token: SecretStr = SecretStr("")
    """What callers of the reward service and the recommend endpoint must show; empty: nothing, on loopback alone."""
    log_key: SecretStr = SecretStr("")
    """Key of users' names in logs (`common.process_log.user_tag`); empty: another one in every process."""

    @model_validator(mode="after")
    def _whole(self) -> Access:
        sasl = self.kafka_protocol.startswith("SASL")
        if sasl != bool(self.kafka_username) or sasl != bool(self.kafka_password.get_secret_value()):
            raise ValueError(
                f"{PREFIX}KAFKA_USERNAME and {PREFIX}KAFKA_PASSWORD must be given for SASL protocols and for no other, "
                f"got protocol {self.kafka_protocol}"
            )
        if (self.kafka_certificate is None) != (self.kafka_key is None):
            raise ValueError(f"{PREFIX}KAFKA_CERTIFICATE and {PREFIX}KAFKA_KEY must be given together")
        return self

    def kafka_client(self) -> dict[str, Any]:
        """Arguments of a Kafka client."""
        told: dict[str, Any] = {"security_protocol": self.kafka_protocol}
        if self.kafka_protocol.endswith("SSL"):
            files = {"ssl_cafile": self.kafka_ca, "ssl_certfile": self.kafka_certificate, "ssl_keyfile": self.kafka_key}
            told |= {name: str(path) for name, path in files.items() if path is not None}
        if self.kafka_protocol.startswith("SASL"):
            told |= {
                "sasl_mechanism": self.kafka_mechanism,
                "sasl_plain_username": self.kafka_username,
                "sasl_plain_password": self.kafka_password.get_secret_value(),
            }
        return told

    def caller_headers(self) -> dict[str, str]:
        """What a caller of our services shows."""
        token = self.service_token.get_secret_value()
        return {"authorization": f"Bearer {token}"} if token else {}


def access() -> Access:
    """What this process's environment says.

    Raises:
        AccessError: a variable is unknown or has no accepted value, or the file that it names cannot be read.
    """
    given: dict[str, str] = {}
    for variable, value in os.environ.items():
        if variable.startswith(PREFIX):
            name = variable.removeprefix(PREFIX)
            if name.endswith(BEHIND_FILE):
                name, value = name.removesuffix(BEHIND_FILE), _content(variable, Path(value))
            if given.setdefault(name.lower(), value) != value:
                raise AccessError(f"{PREFIX}{name} and {PREFIX}{name}{BEHIND_FILE} are both given; give one")
    try:
        return Access.model_validate(given)
    except ValidationError as error:
        raise AccessError("; ".join(_told(issue) for issue in error.errors(include_url=False))) from None


def _content(variable: str, path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise AccessError(f"{variable}: {path} cannot be read: {error.strerror}") from None


def _told(issue: Any) -> str:
    """One issue without the value, which may be a secret."""
    if not issue["loc"]:
        return str(issue["msg"]).removeprefix("Value error, ")
    variable = f"{PREFIX}{str(issue['loc'][0]).upper()}"
    return f"unknown variable {variable}" if issue["type"] == "extra_forbidden" else f"{variable}: {issue['msg']}"
