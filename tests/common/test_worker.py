from __future__ import annotations

import gc
import json
from pathlib import Path

from common.worker import say_ready


def test_a_worker_that_is_ready_leaves_what_it_loaded_out_of_garbage_collection(tmp_path: Path) -> None:
    loaded = [[number] for number in range(1000)]
    try:
        say_ready(tmp_path, "one", metrics="http://127.0.0.1:1/metrics")
        assert gc.get_freeze_count() >= len(loaded)
        assert not {id(one) for one in loaded} & {id(one) for one in gc.get_objects()}
    finally:
        gc.unfreeze()
    assert json.loads((tmp_path / "ready" / "one.json").read_text())["metrics"] == "http://127.0.0.1:1/metrics"
