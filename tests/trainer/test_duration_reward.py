from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.duration_reward import PlayTimes, duration_bucket, play_ranks, shaped_advantages


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_buckets_double() -> None:
    durations = ints(3000, 7000, 8000, 16_000, 60_000, 300_000, 200, 0)
    assert duration_bucket(durations, 2.0).tolist() == [1, 2, 3, 4, 5, 8, 0, -1]


def test_a_rank_is_the_share_of_like_plays_that_were_no_longer() -> None:
    past_play, past_bucket = ints(1, 5, 9, 5, 100), ints(2, 2, 2, 2, 3)
    ranks = play_ranks(ints(5, 0, 10, 50), ints(2, 2, 2, 3), past_play, past_bucket, fewest=2)
    assert ranks[:3].tolist() == [0.75, 0.0, 1.0]
    assert np.isnan(ranks[3])  # one earlier play of a like video is too few


def test_an_unknown_duration_has_no_rank() -> None:
    assert np.isnan(play_ranks(ints(5), ints(-1), ints(1, 2), ints(-1, -1), fewest=1)).all()
    assert np.isnan(PlayTimes(10).ranks(ints(5), ints(-1), 1)).all()


def test_the_best_quarter_is_positive_and_dislikes_are_negative() -> None:
    ranks = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.95, 0.9, np.nan])
    negative = np.array([True, *[False] * 5, True, False, False])
    advantages = shaped_advantages(ranks, negative, np.random.default_rng(0))
    assert advantages.tolist() == [-1, 0, 0, 0, 0, 0, -1, 1, 0]


def test_ties_at_the_top_fill_a_quarter() -> None:
    ranks = np.array([1.0] * 12 + [0.5] * 4)
    drawn = [shaped_advantages(ranks, np.zeros(16, bool), np.random.default_rng(seed)) for seed in range(20)]
    assert all(a.sum() == 4 and (a[12:] == 0).all() for a in drawn)
    assert len({tuple(a.tolist()) for a in drawn}) > 1


def test_a_batch_without_ranks_has_no_positives() -> None:
    assert shaped_advantages(np.full(3, np.nan), np.array([False, True, False]), np.random.default_rng(0)).tolist() == [
        0,
        -1,
        0,
    ]
    assert len(shaped_advantages(np.empty(0), np.empty(0, bool), np.random.default_rng(0))) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_positives_are_at_most_about_a_quarter_and_the_best(values: list[float], seed: int) -> None:
    ranks = np.array(values)
    positive = shaped_advantages(ranks, np.zeros(len(ranks), bool), np.random.default_rng(seed)) > 0
    assert positive.sum() <= max(1, np.ceil(len(ranks) / 4))
    if positive.any() and not positive.all():
        assert ranks[positive].min() >= ranks[~positive].max() or ranks[positive].min() == 1.0


@pytest.mark.parametrize("window", [3, 100])
def test_everybodys_plays_stand_in_and_survive_a_restart(window: int) -> None:
    plays = PlayTimes(window)
    assert np.isnan(plays.ranks(ints(5), ints(2), 1)).all()
    plays.remember(ints(9, 1, 2, 3), ints(2, 2, 2, 2))
    resumed = PlayTimes(window)
    resumed.load_state(plays.state())
    resumed.remember(ints(7), ints(3))
    plays.remember(ints(7), ints(3))
    for one in (plays, resumed):
        expected = 1.0 if window == 3 else 0.75  # the 9 has left the short window
        assert one.ranks(ints(5, 6), ints(2, 3), 1).tolist() == [expected, 0.0]
        assert np.isnan(one.ranks(ints(5), ints(2), 5)).all()
