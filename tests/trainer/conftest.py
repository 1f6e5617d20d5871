"""A recorded run that several files look at."""

from __future__ import annotations

from threading import Event

import pytest

from tests.trainer.fake_fleet import FakeFleet
from tests.trainer.test_loop import COUNT, kill, start, wait_for_steps
from tests.trainer.tiny_run import TinyRun, stream_sessions
from trainer.__main__ import train


@pytest.fixture(scope="session")
def killed(kafka: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run with groups, killed in the middle and finished. To be left as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEREC_REDIS__URL", redis_url)
        run = TinyRun.make(tmp_path_factory.mktemp("retrain") / "run", kafka, "stream.partitions=2", "rl.rate=1")
        run.tell_end(run.send(stream_sessions(COUNT), end=False))
        fleet = FakeFleet(run)
        try:
            trainer = start(run)
            wait_for_steps(run, 7)
            kill(trainer, run)
            train(run.folder, Event())
        finally:
            fleet.close()
    return run
