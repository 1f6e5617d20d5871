"""A process that answers questions: what it says, and what becomes of it."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from common.child_process import ChildError, ChildProcess, answer_questions


def main() -> None:
    own_stdout = sys.stdout.fileno()

    def answer(asked: object) -> object:
        sys.stdout.write("which must not get among the answers\n")
        if isinstance(asked, float):
            time.sleep(asked)
        if asked == "half":
            os.write(own_stdout, pickle.dumps(b"of this some is missing")[:-10])
            time.sleep(60.0)
        if asked == "fail":
            raise ValueError("asked to")
        return asked, os.getpid()

    answer_questions(answer)


@pytest.fixture
def child() -> Iterator[ChildProcess]:
    with closing(ChildProcess(__name__)) as child:
        yield child


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_answers_one_question_after_the_other_in_a_process_of_its_own(child: ChildProcess) -> None:
    for asked in (1, "two", {"three": b"3" * 1_000_000}):
        assert child.ask(asked, 30.0) == (asked, child.pid)
    assert child.pid != os.getpid()


def test_an_error_ends_it_and_the_next_question_starts_it_again(capfd: pytest.CaptureFixture[str]) -> None:
    with closing(ChildProcess(__name__)) as child:
        first = child.pid
        with pytest.raises(ChildError, match=r"test_child_process ended with code 1$"):
            child.ask("fail", 30.0)
        assert "ValueError: asked to" in capfd.readouterr().err
        assert child.ask(1, 30.0) == (1, child.pid)
        assert child.pid != first


def test_one_that_was_killed_is_started_again(child: ChildProcess) -> None:
    child.ask(1, 30.0)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert child.ask(2, 30.0) == (2, child.pid)


def test_one_that_does_not_answer_is_ended(child: ChildProcess) -> None:
    child.ask(1, 30.0)
    slow = child.pid
    with pytest.raises(ChildError, match="did not answer within 0 s"):
        child.ask(60.0, 0.1)
    assert not is_there(slow)
    assert child.ask(2, 30.0)[0] == 2


def test_one_that_does_not_even_read_its_question_is_ended(child: ChildProcess) -> None:
    child.ask(1, 30.0)
    frozen = child.pid
    os.kill(frozen, signal.SIGSTOP)
    with pytest.raises(ChildError, match="did not answer within 0 s"):
        child.ask(b"more than a pipe holds" * 100_000, 0.1)
    assert not is_there(frozen)
    assert child.ask(2, 30.0)[0] == 2


def test_one_that_stops_amid_its_answer_is_ended(child: ChildProcess) -> None:
    child.ask(1, 30.0)
    with pytest.raises(ChildError, match="did not answer within 1 s"):
        child.ask("half", 1.0)
    assert child.ask(2, 30.0)[0] == 2


def test_it_ends_when_it_is_closed_and_no_interrupt_ends_it() -> None:
    with closing(ChildProcess(__name__)) as child:
        child.ask(1, 30.0)
        os.kill(child.pid, signal.SIGINT)
        assert child.ask(2, 30.0) == (2, child.pid)
    assert not is_there(child.pid)
