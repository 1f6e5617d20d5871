"""Where things lie in a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.settings import load_settings
from deploy.local.run_folder import RunFolder
from trainer.journal import Journal


@pytest.mark.parametrize(("ranks", "partition", "store"), [(1, 3, "history"), (4, 0, "history-0"), (4, 7, "history-3")])
def test_histories_are_those_of_the_rank_that_owns_the_partition(
    tmp_path: Path, ranks: int, partition: int, store: str
) -> None:
    run = RunFolder.create(tmp_path, load_settings(overrides=[f"trainer.ranks={ranks}", "stream.partitions=8"]), {})
    with pytest.raises(ValueError, match="has no histories yet"):
        run.history(partition)
    (tmp_path / f"{store}.sqlite").touch()
    assert run.history(partition) == tmp_path / f"{store}.sqlite"


def test_histories_that_another_machine_writes_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path, load_settings(), {})
    (tmp_path / "history.sqlite").touch()
    journal = Journal(tmp_path / "journal.jsonl")
    assert run.history(0).name == "history.sqlite"  # the trainer of this machine has it
    monkeypatch.setattr("trainer.journal._machine", lambda: "elsewhere")
    with pytest.raises(ValueError, match="in use by a trainer on another machine"):
        run.history(0)
    journal.close()
    assert run.history(0).name == "history.sqlite"  # nobody has it
