from common.origin import HEADER, Origin, first_origin, headers_with, origin_of
from common.stream import Record


def record(headers: list[tuple[str, bytes]]) -> Record:
    return Record("b.sessions", 1, 5, 0, None, b"", headers)


def test_a_record_without_an_origin_is_at_its_origin() -> None:
    plain = record([("trace", b"1")])
    assert origin_of(plain) is None
    assert first_origin(plain, "c/t") == Origin(log="c/t", topic="b.sessions", partition=1, offset=5)


def test_the_first_origin_stays_and_so_do_the_other_headers() -> None:
    first = Origin(log="c/a", topic="a.sessions", partition=0, offset=9)
    moved = record(headers_with(first, [("trace", b"1"), (HEADER, b"old")]))
    assert moved.headers == [("trace", b"1"), first.header]
    assert first_origin(moved, "c/t") == first


def test_a_header_that_is_no_origin_counts_as_none() -> None:
    for value in (b"{", b"\xff", b'{"log": "c", "topic": "t", "partition": -1, "offset": 0}'):
        assert origin_of(record([(HEADER, value)])) is None
