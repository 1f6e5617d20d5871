"""Publishing beside the steps: a thread hands committed checkpoints to the parameter channel.

consumes:     versions announced by the loop; the committed checkpoints' parameter bytes
produces:     parameter versions on the message queue
waits for:    an announcement, or the time to look whether the queue still has the manifest and to renew the lease
unblocked by: `announce`, `close`
"""

from __future__ import annotations

import logging
import random
import threading
from pathlib import Path
from typing import Protocol

from common.metrics import TRAINER_PARAMETER_VERSION, TRAINER_PUBLISH_SECONDS
from common.parameter_channel import LeaseLostError, SupersededError
from trainer.checkpoint import policy_blob

LOOK_S = 2.0
BACKOFF_S = 5.0
log = logging.getLogger(__name__)


class Channel(Protocol):
    """What is used of `common.parameter_channel.Publisher`."""

    def publish(self, version: int, blob: bytes) -> float:
        """Put a version out; seconds taken."""

    def incomplete(self) -> bool:
        """Whether a reader could not have the newest version."""

    def renew(self) -> None:
        """Keep the lease."""

    def close(self) -> None:
        """Give the lease back."""


class PublishError(RuntimeError):
    """A version could not be published in time; says why."""


class BackgroundPublisher:
    """Publishes the newest announced version as soon as possible, and again whenever the queue has lost it.

    A queue that is away delays versions and stops no step. A lease that went to another publisher is raised by the next
    call. A version older than what is out (the newest checkpoint was damaged, and its steps are being
    executed again) counts as published: readers keep the newer one, which will come again with the same bytes.
    """

    def __init__(self, channel: Channel, checkpoints: Path) -> None:
        self.published = -1
        self._channel, self._checkpoints = channel, checkpoints
        self._announced = -1
        self._error: Exception | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def announce(self, version: int) -> None:
        """Have a committed version published; returns at once."""
        self.check()
        with self._changed:
            self._announced = version
            self._changed.notify_all()

    def check(self) -> None:
        """LeaseLostError if another publisher took over: this process must not go on."""
        if isinstance(self._error, LeaseLostError):
            raise self._error

    def wait(self, timeout_s: float) -> None:
        """Until the announced version is out.

        Raises:
            PublishError: it is not within ``timeout_s``.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.published == self._announced or self._fatal_error(), timeout_s)
            self.check()
            if self.published != self._announced:
                raise PublishError(f"version {self._announced} was not published within {timeout_s:g} s: {self._error}")

    def close(self) -> None:
        """Stop the thread and give the lease back."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._channel.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._announced != self.published, LOOK_S)
                if self._closing:
                    return
            try:
                self._look()
            except Exception as error:  # any failure of the queue: keep it, try again
                self._failed(error)
                if self._fatal_error():
                    return

    def _look(self) -> None:
        version = self._announced
        if version >= 0 and (version != self.published or self._channel.incomplete()):
            self._publish(version)
            with self._changed:
                self.published, self._error = version, None
                self._changed.notify_all()
        self._channel.renew()

    def _publish(self, version: int) -> None:
        try:
            TRAINER_PUBLISH_SECONDS.observe(self._channel.publish(version, policy_blob(self._checkpoints, version)))
            TRAINER_PARAMETER_VERSION.set(version)
            log.info("parameter version %d is published", version, extra={"version": version})
        except SupersededError as error:
            log.warning("version %d is not published: %s", version, error)

    def _failed(self, error: Exception) -> None:
        log.warning("publishing version %d failed, will try again: %s", self._announced, error)
        with self._changed:
            self._error = error
            self._changed.notify_all()
            if not self._fatal_error():
                self._changed.wait_for(lambda: self._closing, random.uniform(0.5, 1.0) * BACKOFF_S)

    def _fatal_error(self) -> bool:
        return isinstance(self._error, LeaseLostError)
