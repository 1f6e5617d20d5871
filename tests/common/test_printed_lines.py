from __future__ import annotations

import io
import logging
import threading

import pytest

from common.printed_lines import PrintedLines


def test_what_is_printed_becomes_records_line_by_line(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    lines = PrintedLines(stream)
    with caplog.at_level(logging.INFO):
        print("one\ntw", file=lines, end="")
        assert caplog.messages == ["one"]
        print("o", file=lines)
    assert caplog.messages == ["one", "two"]
    assert stream.getvalue() == ""


def test_lines_that_two_threads_print_at_once_stay_two(caplog: pytest.LogCaptureFixture) -> None:
    """`print` writes a text and its line's end one after the other."""
    lines = PrintedLines(io.StringIO())
    other = threading.Thread(target=print, args=("of another thread",), kwargs={"file": lines})
    with caplog.at_level(logging.INFO):
        lines.write("of this thread")
        other.start()
        other.join()
        lines.write("\n")
    assert caplog.messages == ["of another thread", "of this thread"]


@pytest.mark.parametrize(
    "prefix",
    ["\x1b[36m(RolloutProcess pid=30091)\x1b[0m ", "(RolloutProcess pid=7, ip=10.0.0.2) ", "(RolloutProcess pid=7) "],
)
def test_an_actors_json_line_is_passed_on_without_its_prefix(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    stream, line = io.StringIO(), '{"time": "2026-01-01T00:00:00.000+00:00", "message": "hello"}\n'
    lines = PrintedLines(stream)
    with caplog.at_level(logging.INFO):
        lines.write(prefix + line)
        assert (stream.getvalue(), caplog.messages) == (line, [])
        lines.write(prefix + "not JSON\n")
    assert caplog.messages == ["not JSON"]


def test_a_log_that_cannot_be_written_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, said = PrintedLines(io.StringIO()), []

    def broken(*_: object) -> None:
        said.append(1)
        lines.write("the log is broken\n")

    monkeypatch.setattr("common.printed_lines.log.info", broken)
    lines.write("hello\n")
    assert said == [1]
