"""Labels of impressions."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from common.messages import Label
from reward_service.labels import TOWERS, make_labels


def one(play_ms: int, duration_ms: int, bits: int = 0, clicks_recorded: bool = True) -> dict[str, bool | None]:
    """The labels of one impression by tower; None where missing."""
    labels = make_labels(np.array([bits]), np.array([play_ms]), np.array([duration_ms]), clicks_recorded)
    rows = zip(TOWERS, labels.values[0], labels.known[0], strict=True)
    return {tower: bool(value) if known else None for tower, value, known in rows}


def test_view_is_the_whole_item_or_seven_seconds() -> None:
    assert one(6_999, 60_000)["vtr"] is False
    assert one(7_000, 60_000)["vtr"] is True
    assert one(4_000, 4_000)["vtr"] is True
    assert one(3_999, 4_000)["vtr"] is False


def test_long_view_is_eighteen_seconds_or_the_whole_of_a_short_item() -> None:
    assert one(17_999, 60_000)["lvtr"] is False
    assert one(18_000, 60_000)["lvtr"] is True
    assert one(10_000, 10_000)["lvtr"] is True
    assert one(9_999, 10_000)["lvtr"] is False
    assert one(18_000, 18_001)["lvtr"] is True


def test_duration_zero_makes_views_missing_and_nothing_else() -> None:
    labels = one(30_000, 0, Label.CLICK)
    assert labels["vtr"] is None
    assert labels["lvtr"] is None
    assert labels["ctr"] is True
    assert labels["ltr"] is False


def test_click_falls_back_to_play_where_no_clicks_are_recorded() -> None:
    assert one(3_000, 60_000)["ctr"] is False
    assert one(3_000, 60_000, clicks_recorded=False)["ctr"] is True
    assert one(2_999, 60_000, Label.CLICK, clicks_recorded=False)["ctr"] is False


def test_interactions_pool_the_rare_bits() -> None:
    for bit in (Label.LIKE, Label.FOLLOW, Label.COMMENT, Label.FORWARD, Label.PROFILE_ENTER):
        assert one(0, 60_000, bit)["interaction"] is True
    for bit in (Label.CLICK, Label.COLLECT, Label.DISLIKE, Label.LONG_VIEW):
        assert one(0, 60_000, bit)["interaction"] is False
    assert one(0, 60_000, Label.FOLLOW)["wtr"] is True
    assert one(0, 60_000, Label.COMMENT)["cmtr"] is True


@given(st.integers(0, 100_000), st.integers(0, 100_000), st.integers(0, 511))
@settings(deadline=None)
def test_a_long_view_is_a_view_and_missing_values_read_false(play_ms: int, duration_ms: int, bits: int) -> None:
    labels = make_labels(np.array([bits]), np.array([play_ms]), np.array([duration_ms]))
    values = dict(zip(TOWERS, labels.values[0], strict=True))
    assert values["vtr"] or not values["lvtr"]
    assert not (labels.values & ~labels.known).any()
