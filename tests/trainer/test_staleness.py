import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.staleness import Staleness

histories = st.lists(st.integers(0, 1000), unique=True, min_size=1, max_size=20).map(sorted)


@given(histories, st.integers(0, 5))
def test_exactly_the_newest_versions_are_admitted(versions: list[int], max_lag: int) -> None:
    staleness = Staleness(max_lag, versions)
    assert [v for v in versions if staleness.admits(v)] == versions[-(max_lag + 1) :] == staleness.admitted()
    assert staleness.newest == versions[-1]


@given(histories, st.integers(0, 1001))
def test_lag_counts_newer_versions_and_grows_by_one_with_each_publication(versions: list[int], version: int) -> None:
    staleness = Staleness(2, versions)
    before = staleness.lag(version)
    assert before == len([v for v in versions if v > version])
    staleness.publish(2000)
    assert staleness.lag(version) == before + 1


@given(histories, st.integers(0, 1001))
def test_a_version_that_was_never_published_is_never_admitted(versions: list[int], version: int) -> None:
    staleness = Staleness(100, versions)
    assert staleness.knows(version) == staleness.admits(version) == (version in versions)


def test_versions_must_grow() -> None:
    staleness = Staleness(1, [0, 5])
    with pytest.raises(ValueError, match="greater than 5, got 5"):
        staleness.publish(5)
    assert Staleness(1).newest == -1


@given(histories)
def test_a_frozen_generator_has_the_first_version_and_groups_of_it_alone_are_trained(versions: list[int]) -> None:
    frozen, following = Staleness(0, versions, frozen=True), Staleness(0, versions)
    assert frozen.admitted() == [v for v in versions if frozen.admits(v)] == versions[:1] == [frozen.published]
    assert frozen.newest == following.newest == following.published
    assert Staleness(0, frozen=True).published == -1
