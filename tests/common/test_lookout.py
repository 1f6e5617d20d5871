from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import closing

import pytest

from common.lookout import Lookout

WAIT_S = 20.0


@pytest.fixture
def lookout() -> Iterator[Lookout[int]]:
    with closing(Lookout[int]("test")) as one:
        yield one


def test_what_was_found_is_handed_over_once(lookout: Lookout[int]) -> None:
    assert lookout.taken() is None
    wait([lookout.ask(lambda: 7)], WAIT_S)
    assert lookout.taken() == 7
    assert lookout.taken() is None


def test_one_look_at_a_time_and_nobody_waits_for_it(lookout: Lookout[int]) -> None:
    seen = threading.Event()
    first = lookout.ask(lambda: int(seen.wait(WAIT_S)))
    assert lookout.ask(lambda: 2) is first
    assert lookout.poll(lambda: 3, every_s=0.0) is None
    seen.set()
    wait([first], WAIT_S)
    assert lookout.taken() == 1


def test_it_looks_again_only_after_a_while(lookout: Lookout[int]) -> None:
    looks: list[int] = []
    assert lookout.poll(lambda: looks.append(1), every_s=1e6) is None
    wait([lookout.ask(lambda: 5)], WAIT_S)
    assert lookout.poll(lambda: looks.append(1), every_s=1e6) == 5
    assert looks == []


def test_a_look_that_fails_is_told_once(lookout: Lookout[int]) -> None:
    wait([lookout.ask(lambda: 1 // 0)], WAIT_S)
    with pytest.raises(ZeroDivisionError):
        lookout.taken()
    assert lookout.taken() is None
