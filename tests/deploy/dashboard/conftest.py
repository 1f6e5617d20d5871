"""One recorded run for all tests of this room that only read it."""

from __future__ import annotations

import pytest

from deploy.local.run_folder import RunFolder
from tests.deploy.dashboard.recorded import record_run


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that has ended, with everything on disk. To be left as it is."""
    run = record_run(tmp_path_factory.mktemp("recorded") / "run")
    (run.path / "timing.json").write_text("{}")
    return run
