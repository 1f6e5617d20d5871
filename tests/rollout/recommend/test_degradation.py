from __future__ import annotations

import numpy as np
import pytest

from common.metric_catalogue import REGISTRY
from rollout.recommend.degradation import Degradation
from rollout.recommend.pools import Ranked


def worth(*values: float, by: str = "") -> Ranked:
    size = len(values)
    return Ranked(np.arange(size), np.zeros((size, 3), np.float32), np.array(values, np.float32), 1, 1, 0.0, by)


def test_the_gap_is_between_means_of_one_kind() -> None:
    seen = Degradation("gap")
    seen.observe(worth(-2.0, -4.0), generated=True)
    assert seen.gap("log_prob") is None
    seen.observe(worth(0.5, np.nan, by="r1"), generated=False)
    assert seen.gap("log_prob") is None
    seen.observe(worth(-5.0), generated=False)
    assert seen.gap("log_prob") == pytest.approx(2.0)
    seen.observe(worth(0.75, by="r2"), generated=True)
    assert seen.gap("reward") == pytest.approx(0.25)
    assert REGISTRY.get_sample_value("onerec_recommend_reward_gap_number", {"arm": "gap", "by": "reward"}) == 0.25


def test_the_share_follows_what_is_served() -> None:
    seen = Degradation("share")
    seen.observe(worth(1.0), generated=True)
    assert seen.share == 0.0
    for _ in range(500):
        seen.observe(None, generated=False)
    assert seen.share == pytest.approx(1.0, abs=0.01)


def test_lists_that_were_not_scored_say_nothing() -> None:
    seen = Degradation("unscored")
    seen.observe(worth(np.nan, by="r1"), generated=True)
    seen.observe(worth(), generated=False)
    assert seen.gap("reward") is None
