from __future__ import annotations

import time
from threading import Thread

from rollout.recommend.batches import Batches


def test_a_full_batch_waits_for_nobody() -> None:
    batches = Batches[int](size=3, wait_s=60.0)
    for k in range(4):
        batches.put(k)
    assert batches.take(1.0) == [0, 1, 2]


def test_a_batch_that_is_not_full_goes_when_its_first_has_waited() -> None:
    batches = Batches[int](size=3, wait_s=0.05)
    began = time.monotonic()
    batches.put(0)
    assert batches.take(60.0) == [0]
    assert 0.05 <= time.monotonic() - began < 30.0


def test_a_first_that_has_waited_before_it_is_asked_for_waits_no_more() -> None:
    batches = Batches[int](size=3, wait_s=60.0)
    batches.put(0)
    [(one, put)] = batches._waiting
    batches._waiting[0] = (one, put - 60.0)
    began = time.monotonic()
    assert batches.take(60.0) == [0]
    assert time.monotonic() - began < 30.0


def test_nothing_is_an_empty_batch_in_time() -> None:
    assert Batches[int](size=3, wait_s=1.0).take(0.01) == []


def test_closing_lets_the_reader_go_and_keeps_what_waits() -> None:
    batches = Batches[int](size=3, wait_s=60.0)
    taken: list[list[int]] = []
    reader = Thread(target=lambda: taken.extend([batches.take(60.0), batches.take(60.0)]))
    reader.start()
    batches.put(0)
    batches.close()
    reader.join(10.0)
    assert taken == [[0], []]
