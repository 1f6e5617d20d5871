from hypothesis import given
from hypothesis import strategies as st

from trainer.frontier import Asked, Frontier, FrontierState

ASKED = Asked(user_id=5, time_ms=1000, tab=1)

sessions = st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.lists(st.integers(0, 9), max_size=2)), max_size=40)


@given(sessions)
def test_compaction_never_changes_an_answer(plan: list[tuple[int, bool, list[int]]]) -> None:
    """Stream sessions, request for some, settle some in any order, compact always: compare with never compacting."""
    compacted, plain = Frontier(), Frontier()
    consumed = {0: 0, 1: 0}
    for partition, wanted, settled in plan:
        if wanted:
            compacted.request((partition, consumed[partition]), ASKED)
            plain.request((partition, consumed[partition]), ASKED)
        consumed[partition] += 1
        for pick in settled:
            waiting = sorted(plain.outstanding)
            if waiting:
                done = waiting[pick % len(waiting)]
                assert compacted.settle(done)
                assert plain.settle(done)
        compacted.compact(consumed)
        assert compacted.outstanding == plain.outstanding
        assert all(compacted.standing(one) == "settled" and not compacted.settle(one) for one in plain.settled)
        assert all(compacted.standing((p, end)) == "unknown" for p, end in consumed.items())
    if not compacted.outstanding:
        assert not compacted.settled  # nothing is held forever


def test_the_first_group_wins_and_the_second_is_known_as_settled() -> None:
    frontier = Frontier()
    frontier.request((0, 4), ASKED)
    assert frontier.standing((0, 4)) == "outstanding"
    assert frontier.settle((0, 4))
    assert frontier.standing((0, 4)) == "settled"
    assert not frontier.settle((0, 4))
    frontier.request((0, 4), ASKED)  # sent again after a crash
    assert frontier.standing((0, 4)) == "settled"
    assert frontier.standing((0, 5)) == "unknown"


def test_low_waits_for_the_oldest_outstanding_request() -> None:
    frontier = Frontier()
    for offset in (2, 5, 9):
        frontier.request((0, offset), ASKED)
    frontier.settle((0, 5))
    frontier.compact({0: 12, 1: 3})
    assert (frontier.low, frontier.settled) == ({0: 2, 1: 3}, {(0, 5)})
    frontier.settle((0, 2))
    frontier.compact({0: 12, 1: 3})
    assert (frontier.low, frontier.settled) == ({0: 9, 1: 3}, set())


def test_the_state_survives_json() -> None:
    frontier = Frontier()
    for offset in (2, 5, 9):
        frontier.request((1, offset), ASKED)
    frontier.settle((1, 5))
    frontier.compact({1: 10})
    again = Frontier.from_state(FrontierState.model_validate_json(frontier.state().model_dump_json()))
    assert again == frontier
