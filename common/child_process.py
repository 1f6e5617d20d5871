"""A process beside this one that answers its questions, one at a time, and takes no interpreter lock from it.

Consumes: pickled questions on stdin. Produces: a pickled answer to each on stdout. Waits for: the next question.
Unblocked by: `ChildProcess`, or the end of its process, which closes the pipe.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Timer
from typing import Any

END_WITHIN_S = 10.0


class ChildError(RuntimeError):
    """There is no answer: the process ended, or did not answer in time, and was ended."""


class ChildProcess:
    """Runs the function ``main`` of a module, which is to call `answer_questions`. For one thread at a time."""

    def __init__(self, module: str) -> None:
        self._module, self._process = module, _start(module)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, question: object, timeout_s: float) -> Any:
        """The answer to a question, both of types that can be pickled. A process that ended before is started again.

        Raises:
            ChildError: it ended over this question, or was ended because it did not answer within ``timeout_s``.
        """
        if self._process.poll() is not None:
            self.close()
            self._process = _start(self._module)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + timeout_s
        late = Timer(timeout_s, process.kill)  # which ends the wait, be it for the question to be read or for the answer
        late.start()
        try:
            pickle.dump(question, process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            return pickle.load(process.stdout)  # noqa: S301 - of a process that this one has started
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            is_late = time.monotonic() >= deadline
            self.close()
            became = f"did not answer within {timeout_s:.0f} s" if is_late else f"ended with code {process.returncode}"
            raise ChildError(f"the process of {self._module} {became}") from None
        finally:
            late.cancel()

    def close(self) -> None:
        """Close its pipes, upon which it ends, and wait for that."""
        with self._process as process:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # what it has not read when it ended
                process.stdin.close()
            try:
                process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()


def answer_questions(answer: Callable[[Any], object]) -> None:
    """What the process does until its stdin ends. An error ends it, with its traceback on stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt ends the process that asks, and that ends this one
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # what anything prints must not get among the answers
    while True:
        try:
            question = pickle.load(sys.stdin.buffer)  # noqa: S301 - of the process that has started this one
        except EOFError:
            return
        pickle.dump(answer(question), answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _start(module: str) -> subprocess.Popen[bytes]:
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}  # as here, wherever this process found its packages
    command = [sys.executable, "-c", f"from {module} import main; main()"]
    return subprocess.Popen(command, env=os.environ | paths, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
