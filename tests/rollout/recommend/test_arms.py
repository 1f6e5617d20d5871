from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.settings import RecommendArm, SettingsError, load_settings
from rollout.recommend.arms import Arms

NAMES = st.lists(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), min_size=1, max_size=5, unique=True)
USERS = range(4000)


def arms(**shares: float) -> Arms:
    return Arms([RecommendArm(name=name, share=share) for name, share in shares.items()])


@given(NAMES, st.lists(st.floats(1e-3, 1e3), min_size=5, max_size=5), st.integers(0, 2**63 - 1))
def test_every_user_has_one_arm_and_stays_in_it(names: list[str], shares: list[float], user: int) -> None:
    given_arms = [RecommendArm(name=name, share=share) for name, share in zip(names, shares, strict=False)]
    found = Arms(given_arms).of(user)
    assert found in given_arms
    assert Arms(given_arms).of(user) == found


@given(st.floats(0.05, 0.95))
def test_arms_get_their_shares(share: float) -> None:
    split = arms(a=share, b=1 - share)
    counted = sum(split.of(user).name == "a" for user in USERS) / len(USERS)
    assert abs(counted - share) < 5 * (share * (1 - share) / len(USERS)) ** 0.5


@given(st.floats(0.1, 0.4), st.floats(0.1, 0.4))
def test_an_arm_that_grows_keeps_its_users(small: float, more: float) -> None:
    before, after = arms(a=small, b=1 - small), arms(a=small + more, b=1 - small - more)
    assert all(after.of(user).name == "a" for user in USERS[:500] if before.of(user).name == "a")


def test_another_experiment_draws_anew() -> None:
    one, other = arms(a=1, b=1), arms(a=1, c=1)
    both = sum(one.of(user).name == other.of(user).name == "a" for user in USERS) / len(USERS)
    assert abs(both - 0.25) < 0.05


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("[]", "recommend.arms: Tuple should have at least 1 item"),
        ("[{name='a'},{name='a'}]", "arms must have different names, got a, a"),
        ("[{name='a',share=0}]", "recommend.arms.0.share"),
        ("[{name='A'}]", "recommend.arms.0.name"),
        ("[{surprise=1}]", "unknown key recommend.arms.0.surprise"),
        (
            "[{name='a',terms={ltr=1}},{name='b',terms={ltr=1},select=9}]",
            "arms a: terms put nothing in order while select is 0",
        ),
        ("[{terms={ltr=0},select=9}]", "recommend.arms.0.terms: .*must name a term with a weight above 0"),
    ],
)
def test_mistakes_are_named(value: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told.replace("[", r"\[")):
        load_settings(overrides=[f"recommend.arms={value}"])
