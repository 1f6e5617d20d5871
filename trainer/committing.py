"""Committing beside the steps: a thread writes one checkpoint while the next steps run.

consumes:     checkpoints' images, one at a time
produces:     committed checkpoints on disk
waits for:    the disk
unblocked by: its answer; `done` with ``wait`` waits for it
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from common.metrics import (
    TRAINER_CHECKPOINT_BYTES,
    TRAINER_CHECKPOINT_SECONDS,
    TRAINER_CHECKPOINT_STEP,
    TRAINER_CHECKPOINT_TIMESTAMP,
    TRAINER_CHECKPOINTS_FAILED,
    TRAINER_DISK_FREE,
)

log = logging.getLogger(__name__)


class BackgroundCommit:
    """At most one commit under way. A disk that does not take it is told, counted, and stops nothing."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "commit")
        self._under_way: Future[bool] | None = None

    def begin(self, step: int, commit: Callable[[], Path]) -> None:
        """Have the checkpoint of a step written, which gives its folder; the one before must be `done`."""
        assert self._under_way is None, "a commit is under way"
        self._under_way = self._thread.submit(_committed, step, commit)

    def done(self, *, wait: bool) -> bool | None:
        """Whether the disk took what was begun, told once; None while it is under way, or if nothing is.

        What a commit raises that is not the disk's, such as a wrong program, is raised here.
        """
        if self._under_way is None or not (wait or self._under_way.done()):
            return None
        ended, self._under_way = self._under_way, None
        return ended.result()

    def close(self) -> None:
        """Let what is under way end."""
        self._thread.shutdown()


def _committed(step: int, commit: Callable[[], Path]) -> bool:
    try:
        with TRAINER_CHECKPOINT_SECONDS.time():
            folder = commit()
    except OSError as error:
        TRAINER_CHECKPOINTS_FAILED.inc()
        log.error("checkpoint %d could not be written, training goes on from memory: %s", step, error)
        return False
    show_checkpoint(folder)
    log.info("checkpoint %d is committed", step, extra={"step": step})
    return True


def show_checkpoint(folder: Path) -> None:
    """Show the newest committed checkpoint, and how much more its disk takes, on the metrics endpoint."""
    files = [file.stat() for file in folder.iterdir()]
    TRAINER_CHECKPOINT_STEP.set(int(folder.name))
    TRAINER_CHECKPOINT_TIMESTAMP.set(max(file.st_mtime for file in files))
    TRAINER_CHECKPOINT_BYTES.set(sum(file.st_size for file in files))
    TRAINER_DISK_FREE.set_function(partial(_free_bytes, folder.parent))


def _free_bytes(folder: Path) -> float:
    """Space left where a folder is; no number where it is gone, which must not take the other metrics along."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return math.nan
