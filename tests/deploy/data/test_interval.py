import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.data.interval import Point, check_offset, point

NOW_MS = 1_704_067_200_000


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("0", "offset", 0),
        ("1200", "offset", 1200),
        ("1704067200001ms", "time", NOW_MS + 1),
        ("2024-01-01T00:00:01Z", "time", NOW_MS + 1000),
        ("2024-01-01T08:00:00.5+08:00", "time", NOW_MS + 500),
        ("-90s", "time", NOW_MS - 90_000),
        ("-3m", "time", NOW_MS - 180_000),
        ("-2h", "time", NOW_MS - 7_200_000),
        ("-1d", "time", NOW_MS - 86_400_000),
    ],
)
def test_what_a_point_means(text: str, kind: str, value: int) -> None:
    found = point("--from", text, NOW_MS)
    assert (found.kind, found.value, found.text) == (kind, value, text)


@pytest.mark.parametrize("text", ["", "-5", "1.5", "+3", "-2w", "ms", "2024-01-01 25:00", "noon", "1e3"])
def test_what_means_nothing_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match=r"--to must be an offset \(1200\), a time with its zone .*, got"):
        point("--to", text, NOW_MS)


def test_a_time_without_its_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a time with its zone, such as 2024-01-01T00:00Z"):
        point("--to", "2024-01-01T00:00", NOW_MS)


@given(st.integers(0, 50), st.integers(0, 20), st.integers(0, 20))
def test_an_offset_is_in_range_if_the_log_holds_it_or_ends_there(offset: int, begin: int, count: int) -> None:
    at, held = Point("offset", offset, str(offset)), {0: (begin, begin + count)}
    if begin <= offset <= begin + count:
        check_offset("--from", at, held, "t")
    else:
        with pytest.raises(
            ValueError, match=rf"--from {offset} is out of range: t\[0\] holds {begin} up to {begin + count}"
        ):
            check_offset("--from", at, held, "t")
