"""The compose files, by their schema and by what they refer to. No container engine is needed, and none is tested."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.commands import check_command, check_variable

DEPLOY = Path(__file__).parents[2] / "deploy"
FOLDER = DEPLOY / "compose"
ONCE = {"secrets", "prepare", "replay"}
"""Services that do one thing and end."""
FOREIGN = {"kafka", "redis", "prometheus", "grafana"}
PINNED = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+(-[a-z0-9]+)?")
Service = dict[str, Any]


def interpolated(text: str, variables: dict[str, str]) -> str:
    """What compose makes of ``${NAME:-default}`` and ``$$``."""
    filled = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1], found[2]), text)
    assert "${" not in filled
    return filled.replace("$$", "$")


def variables_of(name: str) -> dict[str, str]:
    lines = (FOLDER / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def compose(variables: dict[str, str]) -> dict[str, Any]:
    whole: dict[str, Any] = yaml.safe_load(interpolated((FOLDER / "compose.yaml").read_text(), variables))
    return whole


WHOLE = compose({})
SERVICES: dict[str, Service] = WHOLE["services"]
every_service = pytest.mark.parametrize("name", sorted(SERVICES))
ours = pytest.mark.parametrize("name", sorted(SERVICES.keys() - FOREIGN))


def opened(service: Service) -> set[int]:
    """Ports that a service's command says it listens at."""
    return {
        int(port)
        for word in service.get("command", [])
        for port in re.findall(r"--(?:metrics-|node-manager-)?port=(\d+)", word)
    }


def test_the_files_fit_the_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    files = [str(FOLDER / name) for name in ("compose.yaml", "compose.gpu.yaml")]
    checked = subprocess.run([*command, *files], capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout


def test_the_example_says_what_holds_without_it() -> None:
    example = variables_of(".env.example")
    assert compose(example) == WHOLE
    assert set(re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text())) == example.keys()
    assert variables_of(".env.gpu.example").keys() - example.keys() == {"COMPOSE_FILE"}
    assert all((FOLDER / name).is_file() for name in variables_of(".env.gpu.example")["COMPOSE_FILE"].split(":"))


@every_service
def test_a_service_is_pinned_confined_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert PINNED.fullmatch(service["image"])
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) or name == "kafka"  # Kafka's image writes its configuration at the start
    assert {"cpus", "memory"} <= service["deploy"]["resources"]["limits"].keys()
    assert service["restart"] == "unless-stopped" or name in ONCE | {"trainer"}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert ("healthcheck" in service) != (name in ONCE)


@every_service
def test_no_secret_is_in_plain_text(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        check_variable(variable)
        if re.search(r"PASSWORD|TOKEN|SECRET|KEY|URL", variable):
            assert value.startswith("/run/secrets/onerec/"), variable
            assert "secrets:/run/secrets/onerec:ro" in SERVICES[name]["volumes"]


@ours
def test_a_command_exists_with_its_options(name: str) -> None:
    check_command(SERVICES[name]["command"])


@every_service
def test_a_service_waits_for_what_can_tell(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if other in ONCE else "service_healthy"
        assert how == {"condition": wanted}, other


@every_service
def test_what_is_mounted_is_there(name: str) -> None:
    for mount in SERVICES[name].get("volumes", []):
        source = mount.partition(":")[0]
        assert source in WHOLE["volumes"] or (FOLDER / source).resolve().exists(), mount


@every_service
def test_health_is_asked_at_a_port_that_is_opened(name: str) -> None:
    asked = re.findall(r"127\.0\.0\.1:(\d+)/", " ".join(SERVICES[name].get("healthcheck", {}).get("test", [])))
    if name not in FOREIGN:
        assert {int(port) for port in asked} <= opened(SERVICES[name])


def test_prometheus_scrapes_every_worker_where_it_answers() -> None:
    jobs = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in jobs if job["job_name"] != "prometheus"}
    for job, (target,) in targets.items():
        host, _, port = target.partition(":")
        assert host == job
        assert int(port) in opened(SERVICES[host])
    workers = {name for name in SERVICES.keys() - FOREIGN if opened(SERVICES[name]) & {9464, 8000}}
    assert targets.keys() == workers


def test_secrets_are_made_once_and_for_their_group_alone(tmp_path: Path) -> None:
    make = ["sh", str(FOLDER / "make-secrets.sh"), str(tmp_path)]
    subprocess.run(make, check=True, timeout=30)
    first = {path.name: path.read_text() for path in tmp_path.iterdir()}
    used = set(re.findall(r"/run/secrets/onerec/(\w+)", (FOLDER / "compose.yaml").read_text()))
    assert first.keys() == used
    assert len(set(first.values())) == len(first)
    assert first["redis_url"] == f"redis://:{first['redis_password']}@redis:6379/0"
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o640 for path in tmp_path.iterdir())
    subprocess.run(make, check=True, timeout=30)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == first


def test_what_grafana_is_given_points_at_prometheus() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    boards = yaml.safe_load((provisioning / "dashboards" / "onerec.yaml").read_text())["providers"][0]["options"]["path"]
    assert f"../grafana/dashboards:{boards}:ro" in SERVICES["grafana"]["volumes"]
