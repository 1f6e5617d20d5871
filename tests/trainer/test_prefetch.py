from __future__ import annotations

from threading import Event, current_thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.prefetch import ahead


@given(st.lists(st.integers()), st.integers(1, 5))
def test_items_come_in_order_with_what_was_made_of_them(items: list[int], depth: int) -> None:
    assert list(ahead(items, lambda item: -item, depth)) == [(item, -item) for item in items]


def test_the_next_is_prepared_while_the_reader_works() -> None:
    prepared = [Event() for _ in range(4)]

    def prepare(item: int) -> str:
        prepared[item].set()
        return current_thread().name

    reading = ahead(range(4), prepare, depth=2)
    _, thread = next(reading)
    assert prepared[2].wait(10.0)  # the reader still has the first
    assert thread != current_thread().name
    assert not prepared[3].is_set()  # not further ahead than it may be
    assert [item for item, _ in reading] == [1, 2, 3]


def test_an_error_is_raised_when_its_item_is_due() -> None:
    def prepare(item: int) -> int:
        if item == 1:
            raise ValueError("item 1 is bad")
        return item

    reading = ahead(range(3), prepare)
    assert next(reading) == (0, 0)
    with pytest.raises(ValueError, match="item 1 is bad"):
        next(reading)


def test_a_reader_may_stop_early() -> None:
    done: list[int] = []
    reading = ahead(range(100), done.append, depth=2)
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert len(done) <= 4
