"""What is printed past the log, where the log is JSON: every line of it becomes a record, so that one reader suits all."""

from __future__ import annotations

import io
import logging
import re
import threading
from typing import TextIO

RAY_PREFIX = re.compile(r"(?:\x1b\[\d+m)?\(\w+ pid=\d+[^)]*\)(?:\x1b\[0m)? ")
"""What Ray puts before an actor's line when it repeats it in the fleet's process."""
PRINTED = "printed"
log = logging.getLogger(PRINTED)


class PrintedLines(io.TextIOBase):
    """Takes the place of stdout and stderr. An actor's line that is JSON already is passed on without Ray's prefix."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._own = threading.local()

    def write(self, text: str) -> int:
        """Log the whole lines; the rest waits until its thread has written its end."""
        *lines, self._own.rest = (getattr(self._own, "rest", "") + text).split("\n")
        for line in lines:
            self._take(RAY_PREFIX.sub("", line, count=1))
        return len(text)

    def flush(self) -> None:
        """Whole lines have gone out already."""

    def _take(self, line: str) -> None:
        if line.startswith('{"time": '):
            self._stream.write(line + "\n")
        elif line.strip() and not getattr(self._own, "logs", False):  # a log that cannot be written says so by printing
            self._own.logs = True
            try:
                log.info("%s", line)
            finally:
                self._own.logs = False
