from __future__ import annotations

import importlib.metadata
import resource
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from deploy.local import machine_checks
from deploy.local.checks import Skip, Trouble
from deploy.local.processes import free_port

Usage = namedtuple("Usage", "total used free")


def test_this_machine_has_what_it_takes(tmp_path: Path) -> None:
    for check in machine_checks.machine_checks(tmp_path, None, embedded=False):
        if check.name in {"Python", "packages", "torch", "Ray", "environment"}:
            assert check.look()


def test_a_package_that_is_missing_or_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=99", "no-such-package>=1", "rich", 'also-missing>=1; extra == "dev"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: wanted)
    with pytest.raises(Trouble) as caught:
        machine_checks.packages()
    assert (
        caught.value.found == f"numpy {importlib.metadata.version('numpy')}, needs >=99; no-such-package missing, needs >=1"
    )
    assert "make setup" in caught.value.remedy


def test_another_version_than_the_pinned_one_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine_checks, "ROOT", tmp_path)
    with pytest.raises(Skip):
        machine_checks.pins()
    held = importlib.metadata.version("rich")
    (tmp_path / "constraints.txt").write_text(f"rich=={held}\nno-such-package==1.0\n")
    assert machine_checks.pins() == "1 as pinned"
    (tmp_path / "constraints.txt").write_text("rich==0.0.1\n")
    with pytest.raises(Trouble, match=f"rich {held} instead of 0.0.1") as caught:
        machine_checks.pins()
    assert caught.value.state == "warning"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ONEREC_ACCESS_KAFKA_PROTOCOL", "TLS"), ("ONEREC_ACCESS_TOKEN", "x"), ("ONEREC_LOG_FORMAT", "xml")],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(Trouble, match=variable):
        machine_checks.environment()


def test_an_existing_ray_cluster_must_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"ray://127.0.0.1:{free_port()}")
    with pytest.raises(ValueError, match=r"no Ray head at 127.0.0.1:\d+"):
        machine_checks.ray()
    with socket.create_server(("127.0.0.1", 0)) as head:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{head.getsockname()[1]}")
        assert machine_checks.ray().endswith(" listens")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert machine_checks.ray() == importlib.metadata.version("ray")


def test_too_little_disk_or_too_few_files_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 2**30))
    with pytest.raises(Trouble, match=r"1.0 GiB free, 2 GiB are advised"):
        machine_checks.disk(tmp_path)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    with pytest.raises(Trouble, match="1024 at most") as caught:
        machine_checks.open_files()
    assert "ulimit -n 4096" in caught.value.remedy


def test_a_data_folder_is_known_for_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no data folder"):
        machine_checks.data_folder(tmp_path)
    (tmp_path / "log.json").write_text("{}")
    assert machine_checks.data_folder(tmp_path).endswith(": log")
