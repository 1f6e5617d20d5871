from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import pytest

from common.worker import SWITCH_S, say_ready


def test_a_worker_that_is_ready_has_short_pauses(
    tmp_path: Path,
) -> None:
    before, loaded = sys.getswitchinterval(), [[number] for number in range(1000)]
    try:
        say_ready(tmp_path, "one", metrics="http://127.0.0.1:1/metrics")
        assert gc.get_freeze_count() >= len(loaded)
        assert not {id(one) for one in loaded} & {id(one) for one in gc.get_objects()}
        assert sys.getswitchinterval() == pytest.approx(SWITCH_S)
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)
    assert json.loads((tmp_path / "ready" / "one.json").read_text())["metrics"] == "http://127.0.0.1:1/metrics"
