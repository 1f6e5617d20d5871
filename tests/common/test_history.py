import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.context import UserEvents
from common.history import (
    CONTEXT_EVENTS,
    INITIAL,
    LIFELONG_CONTEXT_EVENTS,
    HistoryError,
    HistoryStore,
    context_events,
    copy_as_of,
)
from common.settings import PolicySettings

USER, PARTITION = 7, 1


def events(*item_ids: int) -> UserEvents:
    ids = np.array(item_ids, np.int64)
    return UserEvents(ids, ids * 10, ids * 0, ids * 0, ids * 0)


def items(store: HistoryStore, position: int, limit: int = 100) -> list[int]:
    return [int(i) for i in store.as_of(USER, PARTITION, position, limit).item_id]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), unique=True, max_size=20), st.integers(0, 41), st.integers(1, 50))
def test_as_of_sees_exactly_the_newest_smaller_positions_in_any_append_order(
    order: list[int], position: int, limit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, HistoryStore(Path(folder) / "history.sqlite") as store:
        store.append(INITIAL, INITIAL, USER, events(500, 501))
        for p in [*order, *order]:  # everything twice
            store.append(PARTITION, p, USER, events(2 * p, 2 * p + 1))
            store.append(PARTITION, p, USER + 1, events(900))
        store.advance(PARTITION, 41)
        expected = [500, 501] + [i for p in sorted(order) if p < position for i in (2 * p, 2 * p + 1)]
        assert items(store, position, limit) == expected[-limit:]


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(10)), st.integers(0, 10))
def test_another_future_changes_no_read(future: list[int], position: int) -> None:
    def read(store: HistoryStore, ids: list[int]) -> list[int]:
        for p, item in enumerate(ids):
            store.append(PARTITION, p, USER, events(item))
        store.advance(PARTITION, len(ids))
        return items(store, position)

    past = list(range(100, 100 + position))
    with (
        tempfile.TemporaryDirectory() as folder,
        HistoryStore(Path(folder) / "a.sqlite") as one,
        HistoryStore(Path(folder) / "b.sqlite") as other,
    ):
        assert read(one, past + future) == read(other, past + future[::-1]) == past


def test_reading_beyond_the_end_is_an_error_and_never_a_shorter_history(tmp_path: Path) -> None:
    with HistoryStore(tmp_path / "history.sqlite") as store:
        store.append(PARTITION, 0, USER, events(1))
        store.advance(PARTITION, 1)
        assert items(store, 1) == [1]
        with pytest.raises(HistoryError, match="read up to 1, cannot answer as of 2"):
            items(store, 2)
        with pytest.raises(HistoryError, match="read up to 0"):
            store.as_of(USER, 0, 1, 10)


def test_the_end_never_moves_back_and_never_jumps_over_a_hole(tmp_path: Path) -> None:
    with HistoryStore(tmp_path / "history.sqlite") as store:
        store.advance(PARTITION, 5, start=0)
        store.advance(PARTITION, 3, start=1)
        assert store.end(PARTITION) == 5
        with pytest.raises(HistoryError, match="read up to 5, cannot go on from 6"):
            store.advance(PARTITION, 9, start=6)


def test_a_session_that_the_log_holds_twice_enters_once_also_when_re_read(tmp_path: Path) -> None:
    with HistoryStore(tmp_path / "history.sqlite") as store:
        for _ in range(2):
            assert store.append(PARTITION, 0, USER, events(1), "s1")
            assert store.append(PARTITION, 1, USER, events(2), "s2")
            assert not store.append(PARTITION, 2, USER, events(1), "s1")
            assert store.append(PARTITION, 3, USER + 1, events(1), "s1")
        store.advance(PARTITION, 4)
        assert items(store, 4) == [1, 2]


def test_only_committed_changes_survive(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    with HistoryStore(path) as store:
        store.append(PARTITION, 0, USER, events(1))
        store.set_profile(USER, {"age": 3})
        store.advance(PARTITION, 1)
        store.commit()
        store.append(PARTITION, 1, USER, events(2))
        store.advance(PARTITION, 2)
    with HistoryStore(path) as store:
        assert (store.end(PARTITION), items(store, 1), store.profile(USER)) == (1, [1], {"age": 3})
        assert store.profile(USER + 1) == {}


def test_a_file_that_is_no_store_and_a_bad_position_are_named(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(HistoryError, match=r"history\.sqlite is not a usable history store"):
        HistoryStore(path)
    with HistoryStore(tmp_path / "good.sqlite") as store, pytest.raises(HistoryError, match="position must be >= 0"):
        store.append(PARTITION, INITIAL, USER, events(1))


def test_a_lifelong_pathway_asks_for_longer_contexts() -> None:
    assert context_events(PolicySettings()) == CONTEXT_EVENTS
    assert context_events(PolicySettings(lifelong_length=8)) == LIFELONG_CONTEXT_EVENTS


def test_a_copy_as_of_holds_the_named_users_past_and_nothing_later(tmp_path: Path) -> None:
    source, target = tmp_path / "source.sqlite", tmp_path / "target.sqlite"
    with HistoryStore(source) as store:
        store.append(INITIAL, INITIAL, USER, events(9))
        for position, user in enumerate([USER, USER + 1, USER, USER]):
            store.append(PARTITION, position, user, events(position), f"s{position}")
        store.set_profile(USER, {"age": 3})
        store.set_profile(USER + 1, {"age": 4})
        store.advance(PARTITION, 4)
        store.commit()
        copy_as_of(source, target, {PARTITION: 3}, {USER: 3})
    with HistoryStore(target) as copy:
        assert (copy.end(PARTITION), items(copy, 3), copy.profile(USER)) == (3, [9, 0, 2], {"age": 3})
        assert copy.profile(USER + 1) == {}
        assert not copy.is_empty
        assert not copy.append(PARTITION, 3, USER, events(1), "s2")


def test_a_store_is_not_copied_as_of_a_position_that_it_has_not_reached(tmp_path: Path) -> None:
    with HistoryStore(tmp_path / "source.sqlite") as store:
        assert store.is_empty
        store.advance(PARTITION, 2)
        store.commit()
    with pytest.raises(HistoryError, match="is read up to"):
        copy_as_of(tmp_path / "source.sqlite", tmp_path / "target.sqlite", {PARTITION: 3}, {})
