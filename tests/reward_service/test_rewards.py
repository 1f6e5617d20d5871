from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.settings import IndustrialSettings, SettingsError, load_settings
from reward_service.rewards import IndustrialReward, Rewards
from tests.factories import make_index

RULE = IndustrialSettings(tags=[3], share_limit=0.3, factor=0.5, band=0.1, decay=0.5)


def request(share: float, size: int = 10) -> np.ndarray:
    return np.arange(size) < share * size


def test_items_of_the_kind_are_dampened_while_there_are_too_many() -> None:
    reward = IndustrialReward(RULE)
    ones = np.ones(10)
    assert reward.apply(ones, request(0.3)).tolist() == [1.0] * 10  # at the limit
    assert reward.apply(ones, request(0.5)).tolist() == [0.5] * 5 + [1.0] * 5
    assert reward.share == pytest.approx(0.4)


def test_the_rule_ends_a_band_below_its_limit() -> None:
    reward = IndustrialReward(RULE)
    reward.apply(np.ones(10), request(0.4))
    assert reward.active
    for share, active in ((0.2, True), (0.26, True), (0.0, False), (0.45, False), (0.6, True)):
        # exponential means: .30, .28 (inside the band: above .27), .14, .295, .4475
        reward.apply(np.ones(100), request(share, 100))
        assert reward.active == active, (share, reward.share)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_rewards_stay_between_the_dampened_and_their_own(shares: list[float]) -> None:
    reward, given_ = IndustrialReward(RULE), np.linspace(0, 1, 20)
    for share in shares:
        kind = request(share, 20)
        changed = reward.apply(given_, kind)
        assert (changed[~kind] == given_[~kind]).all()
        assert ((changed[kind] == given_[kind]) | (changed[kind] == 0.5 * given_[kind])).all()


def test_threads_lose_no_request() -> None:
    reward = IndustrialReward(RULE.model_copy(update={"decay": 0.999}))
    reward.apply(np.ones(10), request(0.0))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: reward.apply(np.ones(10), request(1.0)), range(200)))
    assert reward.share == pytest.approx(1 - 0.999**200)


def test_terms_are_a_weighted_mean_and_tags_say_what_is_industrial() -> None:
    index = make_index()
    tag = int(index.tags[index.tags >= 0][0])
    rows = np.arange(20)
    of_kind = (index.tags[rows] == tag).any(1)
    assert of_kind.any()
    assert not of_kind.all()
    overrides = [
        "reward.terms.p_score=1",
        "reward.terms.ltr=3",
        f"reward.industrial.tags=[{tag}]",
        "reward.industrial.share_limit=0.001",
    ]
    columns = {"p_score": np.full(20, 0.4), "ltr": np.linspace(0, 0.8, 20), "ctr": np.ones(20)}
    expected = 0.25 * columns["p_score"] + 0.75 * columns["ltr"]
    found = Rewards(load_settings("", overrides).reward)(columns, index, rows)
    assert found == pytest.approx(np.where(of_kind, expected / 2, expected))
    own = Rewards(load_settings("", overrides).reward)(columns, index, rows, {"ctr": 2.0, "p_score": 0.0})
    assert own == pytest.approx(np.where(of_kind, 0.5, 1.0))
    assert Rewards(load_settings("").reward)(columns, index, rows) == pytest.approx(columns["p_score"])


@pytest.mark.parametrize(
    ("override", "message"),
    [("reward.terms.fame=1", r"reward\.terms"), ("reward.terms.p_score=0", "must name a term with a weight above 0")],
)
def test_a_reward_of_nothing_or_of_something_unknown_is_refused(override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings("", [override])
