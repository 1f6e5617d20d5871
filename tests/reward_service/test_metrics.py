"""AUC and GAUC against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_service.metrics import auc, grouped_auc, reliability

rows = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40)


def brute_force(pairs: list[tuple[int, bool]]) -> float | None:
    wins = [(p > n) + 0.5 * (p == n) for p, y in pairs if y for n, z in pairs if not z]
    return sum(wins) / len(wins) if wins else None


@given(rows)
@settings(deadline=None)
def test_auc_and_gauc_equal_their_definitions(rows: list[tuple[int, bool, int]]) -> None:
    scores = np.array([s for s, _, _ in rows], np.float64)
    values = np.array([y for _, y, _ in rows])
    groups = np.array([g for _, _, g in rows], np.int64)
    assert auc(scores, values) == pytest.approx(brute_force([(s, y) for s, y, _ in rows]))
    each = [[(s, y) for s, y, h in rows if h == g] for g in range(4)]
    ranked = [(value, len(group)) for group in each if (value := brute_force(group)) is not None]
    expected = sum(v * n for v, n in ranked) / sum(n for _, n in ranked) if ranked else None
    assert grouped_auc(scores, values, groups) == pytest.approx(expected)


def test_nothing_to_rank_is_no_figure() -> None:
    assert auc(np.empty(0), np.empty(0, np.bool_)) is None


def test_reliability_bins_are_even_and_rise_with_the_prediction() -> None:
    scores = np.array([0.9, 0.1, 0.3, 0.2, 0.8])
    values = np.array([True, False, True, False, True])
    bins = reliability(scores, values, 2)
    np.testing.assert_allclose(bins, [(0.2, 1 / 3, 3), (0.85, 1.0, 2)])
    assert reliability(scores[:1], values[:1], 10) == [(0.9, 1.0, 1)]
    assert reliability(scores[:0], values[:0], 10) == []
