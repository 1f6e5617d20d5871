from __future__ import annotations

import numpy as np

from benchmarks.featurise import Scale, catalogue, compare, sample
from common.settings import load_settings

SCALE = Scale(
    policy=load_settings("v1-0.015b", ["policy.d_model=16", "policy.ffn=16", "policy.feature_width=8"]).policy,
    items=500,
    topics=8,
    events=120,
    contexts=2,
    runs=1,
)


def test_a_small_run_measures_both() -> None:
    result = compare(SCALE, lambda _: None)
    assert result.rival is not None
    assert result.ratio is not None
    assert abs(result.ratio - result.rival / result.value) < 1e-9
    assert result.details["claims"][0].holds == (result.ratio >= 5)


def test_users_have_as_many_events_of_ten_topics_at_most() -> None:
    rng = np.random.default_rng(0)
    index, topic = catalogue(SCALE, rng)
    one = sample(SCALE, index, topic, 3, rng)
    assert len(one.context.events) == 120
    assert len(set(topic[one.context.events.item_id].tolist())) <= 10
    assert (np.diff(one.context.events.time_ms) >= 0).all()
    assert one.codes.shape == (6, SCALE.policy.levels)
