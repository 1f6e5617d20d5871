"""What a process logs, as lines and as JSON."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeGuard

import pytest

from common.process_log import BURST, PRINTED_BURST, WINDOW_S, FloodGate, JsonLines, _key, user_tag

ROOT = Path(__file__).parents[2]
SCRIPT = """
import logging, sys, warnings
from pathlib import Path
from common.process_log import start_log
start_log("trainer", Path(sys.argv[1]))
logging.getLogger("trainer.publishing").info("parameter version %d is published", 40, extra={"version": 40, "color": "red"})
warnings.warn("odd")
print("by hand")
raise RuntimeError("no more")
"""
ENDPOINTS = {"run": "run-1", "kafka": "h:1", "prefix": "p", "reward": "http://h:2"}


def run(folder: Path, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, env=os.environ | environment, timeout=60
    )
    assert done.returncode == 1
    assert done.stdout == ("" if "ONEREC_LOG_FORMAT" in environment else "by hand\n")
    return done.stderr.splitlines()


def test_a_json_log_is_one_object_a_line_also_for_warnings_and_the_end(tmp_path: Path) -> None:
    (tmp_path / "endpoints.json").write_text(json.dumps(ENDPOINTS))
    lines: list[dict[str, Any]] = [json.loads(line) for line in run(tmp_path, ONEREC_LOG_FORMAT="json")]
    assert [line["level"] for line in lines] == ["INFO", "INFO", "WARNING", "INFO", "CRITICAL"]
    assert all((line["process"], line["run"]) == ("trainer", "run-1") for line in lines)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"]) for line in lines)
    assert lines[0]["message"].startswith("started: version ")
    assert (lines[1]["message"], lines[1]["version"]) == ("parameter version 40 is published", 40)
    assert (lines[1]["logger"], "color" in lines[1]) == ("trainer.publishing", False)
    assert (lines[3]["logger"], lines[3]["message"]) == ("printed", "by hand")
    assert (lines[4]["logger"], lines[4]["message"]) == ("uncaught", "RuntimeError: no more")
    assert "Traceback" in lines[4]["error"]


def test_lines_are_the_default_and_another_format_is_refused(tmp_path: Path) -> None:
    lines = run(tmp_path)
    assert re.fullmatch(r"\S+ \S+ INFO trainer.publishing: parameter version 40 is published", lines[1])
    assert run(tmp_path, ONEREC_LOG_FORMAT="xml")[-1] == "ValueError: ONEREC_LOG_FORMAT must be text or json, got 'xml'"


def test_the_run_is_named_once_it_is_known(tmp_path: Path) -> None:
    lines, record = JsonLines("reward_service", tmp_path), logging.makeLogRecord({"msg": "hello"})
    assert json.loads(lines.format(record))["run"] == ""
    (tmp_path / "endpoints.json").write_text(json.dumps(ENDPOINTS))
    assert json.loads(lines.format(record))["run"] == "run-1"


def test_a_user_has_the_same_name_under_one_key_and_another_under_another(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for key in ("one", "two", ""):
        monkeypatch.setenv("ONEREC_ACCESS_LOG_KEY", key)
        _key.cache_clear()
        assert user_tag(123456) == user_tag(123456) != user_tag(123457)
        assert re.fullmatch("[0-9a-f]{16}", user_tag(123456))
        names.add(user_tag(123456))
    assert len(names) == 3
    _key.cache_clear()


def test_what_is_said_too_often_is_held_back_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("common.process_log.time.monotonic", lambda: now)
    gate = FloodGate()

    def say(text: str, **more: object) -> logging.LogRecord | None:
        record = logging.makeLogRecord({"name": "rollout", "msg": text, "args": (1,), **more})
        return record if gate.filter(record) else None

    assert sum(say("no rewards for %d") is not None for _ in range(BURST + 7)) == BURST
    assert say("another thing: %d")
    assert say("no rewards for %d", reason="stale")
    now += WINDOW_S
    again = say("no rewards for %d")
    assert again is not None
    assert again.getMessage() == "no rewards for 1 (7 more like it were held back)"
    after = say("no rewards for %d")
    assert after is not None
    assert after.getMessage() == "no rewards for 1"


def test_a_printed_traceback_comes_out_whole_and_a_printed_flood_does_not() -> None:
    gate = FloodGate()
    records = (logging.makeLogRecord({"name": "printed", "msg": "%s", "args": (f"line {k}",)}) for k in range(1000))
    assert sum(gate.filter(record) for record in records) == PRINTED_BURST > 100


@pytest.mark.parametrize("room", ["common", "trainer", "rollout", "reward_service", "tokenizer_job", "deploy"])
def test_no_line_has_a_users_id(room: str) -> None:
    """Whatever is logged of a user goes through `user_tag`."""
    bare = []
    for path in (ROOT / room).rglob("*.py"):
        for call in filter(is_logging, ast.walk(ast.parse(path.read_text()))):
            named = {
                part for node in ast.walk(call) for part in [getattr(node, "attr", "") or getattr(node, "id", "")] if part
            }
            bare += [f"{path.name}:{call.lineno}"] if {"user_id", "user"} & named and "user_tag" not in named else []
    assert bare == []


def is_logging(node: ast.AST) -> TypeGuard[ast.Call]:
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Attribute) and called.attr in {
        "debug",
        "info",
        "warning",
        "error",
        "exception",
        "critical",
    }
