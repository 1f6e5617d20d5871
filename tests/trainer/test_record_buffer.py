import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.history import ranges_between
from common.stream import LogReader, Record, StreamError
from trainer.record_buffer import RecordBuffer, even_cuts


class ListReader(LogReader):
    """The network's end: serves records from a list, at most three at a time."""

    def __init__(self, records: list[Record], positions: dict[int, int]) -> None:
        self.positions = dict(positions)
        self._records = [r for r in records if r.offset >= positions[r.partition]]

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:  # noqa: ARG002
        count = min(3, max_records)
        batch, self._records = self._records[:count], self._records[count:]
        for record in batch:
            self.positions[record.partition] = record.offset + 1
        return batch

    def lag(self) -> dict[int, int]:
        return {p: sum(r.partition == p for r in self._records) for p in self.positions}


def log(order: list[int]) -> list[Record]:
    """Records of two partitions, in this order of arrival; every record is one ms younger than the one before."""
    ends = {0: 0, 1: 0}
    records = []
    for time_ms, partition in enumerate(order):
        records.append(Record("t", partition, ends[partition], time_ms, None, b"", []))
        ends[partition] += 1
    return records


def read(buffer: RecordBuffer) -> None:
    while buffer.fill(100, 0.0):
        pass


@given(st.lists(st.integers(0, 1), max_size=40), st.integers(1, 7))
def test_cuts_follow_time_and_their_ranges_bring_back_the_same_records(order: list[int], size: int) -> None:
    records = log(order)
    live, again = (RecordBuffer(ListReader(records, {0: 0, 1: 0})) for _ in range(2))
    read(live)
    seen = []
    while True:
        before = dict(live.positions)
        cut = live.cut(size)
        if not cut:
            break
        seen += cut
        taken = again.take(ranges_between(before, live.positions), 0.1)
        assert sorted(taken, key=lambda r: r.timestamp_ms) == cut
        assert again.positions == live.positions
    assert seen == records
    assert sum(live.lag().values()) == 0


def test_lag_and_the_end_count_what_was_not_handed_out() -> None:
    buffer = RecordBuffer(ListReader(log([0, 0, 0, 1, 1]), {0: 0, 1: 0}))
    buffer.fill(100, 0.0)
    buffer.cut(1)
    assert (len(buffer), buffer.lag()) == (2, {0: 2, 1: 2})
    assert not buffer.read_past({0: 2, 1: 1})
    assert buffer.read_past({0: 2})
    assert not buffer.is_dry()
    read(buffer)
    assert buffer.is_dry()
    assert buffer.read_past({0: 2, 1: 1})
    assert not buffer.read_past({0: 3})


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(1, 30))
def test_ranks_cut_evenly_and_make_up_for_those_that_lack(held: list[int], count: int) -> None:
    cuts = even_cuts(held, count)
    assert sum(cuts) == min(count, sum(held))
    for cut, has in zip(cuts, held, strict=True):
        assert cut <= has
        assert cut == has or cut >= max(cuts) - 1  # whoever has some left cuts no less than the others


def test_a_batch_is_cut_from_what_the_ranks_hold() -> None:
    assert even_cuts([9, 9], 4) == [2, 2]
    assert even_cuts([9, 9], 5) == [3, 2]
    assert even_cuts([1, 9], 4) == [1, 3]
    assert even_cuts([1, 2, 0], 4) == [1, 2, 0]


def test_records_that_do_not_come_and_ranges_that_do_not_follow_are_errors() -> None:
    buffer = RecordBuffer(ListReader(log([0, 0]), {0: 0}))
    with pytest.raises(StreamError, match="recorded up to 3, but only 2 could be read"):
        buffer.take({0: (0, 3)}, 0.01)
    with pytest.raises(StreamError, match="stands at 0, not at 1"):
        buffer.take({0: (1, 2)}, 0.01)
