from hypothesis import given
from hypothesis import strategies as st

from trainer.rl_users import is_rl_user, request_id


def test_the_share_of_users_is_the_rate_and_rotates_daily() -> None:
    today = {u for u in range(100_000) if is_rl_user(u, 19_000, 0.01, 0)}
    tomorrow = {u for u in range(100_000) if is_rl_user(u, 19_001, 0.01, 0)}
    assert 850 <= len(today) <= 1150  # 5 standard deviations
    assert len(today & tomorrow) <= 40  # about 10 by chance


@given(st.integers(0, 2**62), st.integers(0, 30_000), st.integers(0, 100), st.floats(0, 1), st.floats(0, 1))
def test_raising_the_rate_only_adds_users(user: int, day: int, salt: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert is_rl_user(user, day, low, salt) <= is_rl_user(user, day, high, salt)
    assert not is_rl_user(user, day, 0.0, salt)
    assert is_rl_user(user, day, 1.0, salt)


def test_the_draw_is_the_same_in_every_process() -> None:
    assert [u for u in range(400) if is_rl_user(u, 1, 0.01, 7)] == [129, 139, 199, 269, 351]


def test_request_ids_differ_by_every_part() -> None:
    ids = {request_id(r, t, p, o) for r in "ab" for t in "xy" for p in range(3) for o in range(12)}
    assert len(ids) == 2 * 2 * 3 * 12
    assert request_id("run", "s", 1, 5) == request_id("run", "s", 1, 5)
