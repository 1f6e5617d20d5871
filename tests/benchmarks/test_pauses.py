from __future__ import annotations

import os
import time
from itertools import pairwise

from benchmarks.pauses import SHORTEST_S, Witnesses, taken


def test_time_in_several_pauses_counts_once() -> None:
    pauses = [(5.0, 6.0), (1.0, 3.0), (2.0, 4.0), (2.5, 2.6), (9.0, 9.5)]
    assert taken(0.0, 10.0, pauses) == 4.5
    assert taken(2.0, 5.5, pauses) == 2.5
    assert taken(6.0, 9.0, pauses) == 0.0


def test_witnesses_on_all_cores_tell_pauses_in_order_and_a_busy_core_is_none() -> None:
    began = time.perf_counter()
    with Witnesses() as witnesses:
        while time.perf_counter() - began < 0.5:  # keeps a core busy
            pass
        pauses = witnesses.pauses()
    assert set(pauses) == os.sched_getaffinity(0)
    for found in pauses.values():
        assert all(end - start >= SHORTEST_S for start, end in found)
        assert all(a[1] <= b[0] for a, b in pairwise(found))
        # a machine that was away for half of the time would say nothing of the witness
        assert taken(began, began + 0.5, found) < 0.25
