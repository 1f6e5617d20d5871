"""Where things lie in a run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.settings import load_settings
from common.worker import machine
from deploy.local.run_folder import RunFolder


@pytest.mark.parametrize(("ranks", "partition", "store"), [(1, 3, "history"), (4, 0, "history-0"), (4, 7, "history-3")])
def test_histories_are_those_of_the_rank_that_owns_the_partition(
    tmp_path: Path, ranks: int, partition: int, store: str
) -> None:
    run = RunFolder.create(tmp_path, load_settings(overrides=[f"trainer.ranks={ranks}", "stream.partitions=8"]), {})
    with pytest.raises(ValueError, match="has no histories yet"):
        run.history(partition)
    (tmp_path / f"{store}.sqlite").touch()
    assert run.history(partition) == tmp_path / f"{store}.sqlite"


def test_histories_that_another_machine_writes_are_not_opened(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, load_settings(), {})
    (tmp_path / "history.sqlite").touch()
    run.ready_file("trainer").parent.mkdir()
    for told in ({"machine": machine()}, {}):
        run.ready_file("trainer").write_text(json.dumps(told))
        assert run.history(0).name == "history.sqlite"
    run.ready_file("trainer").write_text(json.dumps({"machine": "elsewhere"}))
    with pytest.raises(ValueError, match="in use by a trainer on another machine"):
        run.history(0)
