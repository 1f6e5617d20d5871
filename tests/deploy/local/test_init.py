from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from common.settings import Settings, load_settings
from common.stream import StreamError
from deploy.local.init import init_run
from deploy.local.live import View
from deploy.local.preflight import check_name, check_url
from deploy.local.run_folder import RunFolder, write_json
from deploy.local.up import PREPARATION

SOURCE = {"kind": "simulate", "path": ""}
REWARD = "http://reward:8000"


def settings(kafka: str, *more: str) -> Settings:
    return load_settings("test", [f"stream.bootstrap='{kafka}'", "stream.timeout_s=1", *more])


@pytest.fixture
def prepared(tmp_path: Path, kafka: str) -> Path:
    """A run folder in which every preparation step has left its marker."""
    run = RunFolder.create(tmp_path / "run", settings(kafka), SOURCE)
    for step in [step for _, lanes in PREPARATION for lane in lanes for step in lane]:
        write_json(run.prepared / f"{step}.json", {"seconds": 0.0, "result": {}})
    return run.path


def init(folder: Path, wanted: Settings, name: str = "first", source: dict[str, str] = SOURCE, reward: str = REWARD) -> str:
    return init_run(folder, wanted, source, name, reward, View(Console(file=io.StringIO()))).run


def test_a_run_that_is_ready_stays_as_it_is(prepared: Path, kafka: str) -> None:
    assert init(prepared, settings(kafka)) == "first"
    before = (prepared / "endpoints.json").read_bytes()
    assert init(prepared, settings(kafka)) == init(prepared, settings(kafka), name="") == "first"
    assert (prepared / "endpoints.json").read_bytes() == before


def test_what_differs_from_the_run_is_named(prepared: Path, kafka: str) -> None:
    init(prepared, settings(kafka))
    with pytest.raises(ValueError, match=r"another rl\.rate, 0\.3 and not 0\.5"):
        init(prepared, settings(kafka, "rl.rate=0.5"))
    with pytest.raises(ValueError, match="says reward http://reward:8000, not http://there:1"):
        init(prepared, settings(kafka), reward="http://there:1")
    with pytest.raises(ValueError, match="says run first, not second"):
        init(prepared, settings(kafka), name="second")
    with pytest.raises(ValueError, match="whose sessions are from"):
        init(prepared, settings(kafka), source={"kind": "log", "path": "/elsewhere"})


def test_nobody_is_sent_to_a_run_without_topics(prepared: Path) -> None:
    run = RunFolder(prepared)
    nowhere = settings("127.0.0.1:1")
    run.settings_file.write_text(nowhere.model_dump_json(exclude={"redis": {"url"}}))
    with pytest.raises(StreamError):
        init(prepared, nowhere)
    assert not run.endpoints.exists()


@pytest.mark.parametrize("url", ["reward:8000", "ftp://reward", "http://", "http://[::1", "http://reward:65536", ""])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(ValueError, match="--reward must be http://HOST:PORT, got"):
        check_url("--reward", url)


def test_a_name_must_be_fit_for_topics() -> None:
    check_name("--name", "run-1.b_C")
    with pytest.raises(ValueError, match="--name must be at most 100 letters"):
        check_name("--name", "two words")
