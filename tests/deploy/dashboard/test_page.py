"""The page's answers, and the page itself in a browser that can reach nothing but this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from deploy.dashboard.page import MOST_USER, create_app, parse_user
from deploy.dashboard.state import LoopState
from deploy.local.run_folder import RunFolder, read_json
from tests.deploy.dashboard.chromium import Chromium, binary

WIDTHS = (1280, 390)
TOO_WIDE = """[...document.querySelectorAll('body *')]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def client(recorded: RunFolder) -> Iterator[TestClient]:
    with TestClient(create_app(recorded), base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="module")
def url(recorded: RunFolder) -> Iterator[str]:
    """Of `onerec dashboard` as a process of its own."""
    command = [sys.executable, "-m", "deploy.cli.main", "dashboard", "--run-folder", str(recorded.path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        told = next((line for line in process.stderr if "answers at" in line), "")
        assert told.strip() == f"dashboard answers at {read_json(recorded.ready_file('dashboard'))['url']}"
        yield told.split()[-1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not recorded.ready_file("dashboard").exists()
    finally:
        process.kill()
        process.stderr.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if binary() is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def test_the_state_is_told_as_json(client: TestClient) -> None:
    state = LoopState.model_validate_json(client.get("/state").content)
    assert (state.stage, state.figures.sessions, state.letters.count) == ("finished", 36, 1)


def test_its_own_process_can_be_watched_too(client: TestClient) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    assert "process_resident_memory_bytes" in client.get("/metrics").text


def test_what_strangers_wrote_is_text_on_the_page(client: TestClient) -> None:
    page = client.get("/").text
    assert "user_id: &lt;b&gt;missing&lt;/b&gt;" in page
    assert "<b>missing" not in page


def test_nothing_but_the_pages_own_script_runs(client: TestClient) -> None:
    for path in ("/", "/live", "/static/page.js", "/sample?user=x"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_a_user_gets_lists_of_the_newest_version_and_of_the_one_before(client: TestClient) -> None:
    page = client.get("/sample", params={"user": "1"})
    assert page.status_code == 200
    assert page.text.index("version 5 <small>before") < page.text.index("version 9 <small>newest")
    assert page.text.count("<li>") == 20


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ("abc", f"user must be a whole number from 0 to {MOST_USER}, got &#39;abc&#39;"),
        ("-1", "got &#39;-1&#39;"),
        ("<script>", "got &#39;&lt;script&gt;&#39;"),
        ("9" * 5000, "got &#39;9999"),
        (str(MOST_USER + 1), "user must be a whole number"),
        ("99999", "user 99999 is not known to this run"),
        ("", "user must be a whole number"),
    ],
)
def test_a_user_id_that_is_none_is_told_in_one_line(client: TestClient, user: str, reason: str) -> None:
    answer = client.get("/sample", params={"user": user})
    assert answer.status_code == 422
    assert reason in answer.text
    assert answer.text.count("\n") == 0


def test_a_user_id_may_have_blanks_around_it() -> None:
    assert [parse_user(text) for text in (" 7 ", "0", str(MOST_USER))] == [7, 0, MOST_USER]


def test_a_run_that_has_just_begun_has_a_page_without_figures(recorded: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_bytes(recorded.settings_file.read_bytes())
    with TestClient(create_app(RunFolder.open(tmp_path)), base_url="http://localhost") as client:
        page = client.get("/").text
        asked = client.get("/sample", params={"user": "1"})
    assert page.count("nothing measured yet") == 4
    assert "<b>—</b><span>sessions</span>" in page
    assert (asked.status_code, "the trainer of this run has no histories yet" in asked.text) == (422, True)


def test_requests_are_bounded(client: TestClient) -> None:
    assert client.request("GET", "/state", content=b"x" * 2000).status_code == 413
    assert client.post("/state").status_code == 405
    assert client.get("/static/../page.py").status_code == 404


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_shows_the_state_and_fits(browser: Chromium, url: str, width: int, dark: bool) -> None:
    browser.show(url, width, dark=dark)
    state = LoopState.model_validate(httpx.get(f"{url}/state").json())
    shown = browser.evaluate(
        "Object.fromEntries([...document.querySelectorAll('[data-figure]')].map("
        "e => [e.dataset.figure, e.querySelector('b').textContent]))"
    )
    figures = state.figures
    assert shown == {
        "sessions": f"{figures.sessions:,}",
        "step": f"{figures.step:,}",
        "groups trained": f"{figures.trained:,}",
        "parameter version": f"{figures.version}",
        "parity": f"{figures.parity:.1e}",
        "dead letters": f"{state.letters.count}",
        "loss": f"{figures.loss:.3f}",
        "reward": f"{figures.reward:.4f}",
        "legality": f"{100 * (figures.legality or 0):.1f}",
        "staleness": f"{figures.staleness:.2f}",
    }
    parts = "[...document.querySelectorAll('[data-part] td.left')].map(e => e.textContent)"
    assert browser.evaluate(parts) == [part.state for part in state.parts]
    assert browser.evaluate("document.querySelectorAll('polyline.course').length") == 4
    assert browser.evaluate(TOO_WIDE) == []
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.complaints == []


def test_a_person_asks_for_a_user_and_is_told_mistakes(browser: Chromium, url: str) -> None:
    browser.show(url, WIDTHS[1])
    type_and_ask = "document.getElementById('user').value = '{}'; document.querySelector('#ask button').click()"
    browser.evaluate(type_and_ask.format("1"))
    browser.until("document.querySelectorAll('#sample li').length === 20")
    assert browser.evaluate(TOO_WIDE) == []
    assert browser.complaints == []
    browser.evaluate(type_and_ask.format("nobody"))
    browser.until("document.querySelector('#sample').textContent.includes(\"got 'nobody'\")")


def test_a_page_whose_server_ended_says_so_and_keeps_the_figures(
    browser: Chromium, recorded: RunFolder, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "deploy.cli.main", "dashboard", "--run-folder", str(recorded.path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        told = next(line for line in process.stderr if "answers at" in line)
        browser.show(told.split()[-1], WIDTHS[0])
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        browser.evaluate("refresh()")
        browser.until("document.getElementById('as-of').textContent.includes('no longer answers')")
        assert browser.evaluate("document.querySelector('[data-figure=sessions] b').textContent") == "36"
    finally:
        process.kill()
        process.stderr.close()
        recorded.ready_file("dashboard").unlink(missing_ok=True)
