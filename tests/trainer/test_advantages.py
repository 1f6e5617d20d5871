import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.advantages import MAX_ADVANTAGE, advantages_for, group_advantages, pair_advantages

rewards = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=40)


def test_the_worked_group() -> None:
    expected = [-1.2649, -0.6325, 0.6325, 1.2649]
    assert group_advantages([0.1, 0.2, 0.4, 0.5]) == pytest.approx(expected, abs=1e-4)


def test_illegal_candidates_change_nothing_for_the_others() -> None:
    mixed = group_advantages([None, 0.1, 0.2, None, 0.4, 0.5])
    assert mixed[[1, 2, 4, 5]].tolist() == group_advantages([0.1, 0.2, 0.4, 0.5]).tolist()
    assert mixed[[0, 3]].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("group", [[], [None, None], [0.3, None], [0.3, 0.3, 0.3], [0.3, 0.3 + 1e-7]])
def test_nothing_to_prefer_gives_zeros(group: list[float | None]) -> None:
    advantages = group_advantages(group)
    assert advantages.dtype == np.dtype(np.float32)
    assert advantages.tolist() == [0.0] * len(group)


def test_an_outlier_is_clamped() -> None:
    assert group_advantages([0.0] * 99 + [1.0])[-1] == MAX_ADVANTAGE


@given(rewards)
def test_bounded_finite_and_ordered_as_the_rewards(group: list[float | None]) -> None:
    advantages = group_advantages(group)
    assert np.isfinite(advantages).all()
    assert (np.abs(advantages) <= MAX_ADVANTAGE).all()
    legal = [i for i, reward in enumerate(group) if reward is not None]
    ranked = sorted(legal, key=lambda i: group[i] or 0.0)
    assert (np.diff(advantages[ranked]) >= 0).all()


@pytest.mark.parametrize(
    ("group", "pair"),
    [
        ([0.2, 0.5, 0.1, 0.4], [0, 1, -1, 0]),
        ([None, 0.2, None, 0.1, None], [0, 1, 0, -1, 0]),  # a masked one is neither, though it has no reward at all
        ([0.5, 0.1, 0.5, 0.1], [1, -1, 0, 0]),  # of equal ones the first
        ([0.1, 0.1002], [-1, 1]),
    ],
)
def test_a_pair_is_the_best_and_the_worst(group: list[float | None], pair: list[float]) -> None:
    advantages = pair_advantages(group)
    assert advantages.dtype == np.dtype(np.float32)
    assert advantages.tolist() == pair


@pytest.mark.parametrize("group", [[], [None, None], [0.3, None], [0.3, 0.3, 0.3], [0.3, 0.30009]])
def test_without_a_difference_there_is_no_pair(group: list[float | None]) -> None:
    assert pair_advantages(group).tolist() == [0.0] * len(group)


@given(rewards)
def test_a_pair_has_one_of_each_or_is_none(group: list[float | None]) -> None:
    advantages = pair_advantages(group)
    assert sorted(advantages[advantages != 0].tolist()) in ([], [-1.0, 1.0])
    if advantages.any():
        best, worst = (group[int(np.flatnonzero(advantages == sign)[0])] for sign in (1, -1))
        legal = [reward for reward in group if reward is not None]
        assert (best, worst) == (max(legal), min(legal))


def test_only_dpo_learns_from_a_pair() -> None:
    group = [0.1, 0.2, None, 0.4]
    assert advantages_for("dpo", group).tolist() == pair_advantages(group).tolist()
    assert all(advantages_for(name, group).tolist() == group_advantages(group).tolist() for name in ("ecpo", "grpo", "gbpo"))
