import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.settings import FilterSettings
from trainer.session_filter import SessionFilter


def filtered(scores: list[int], window: int = 500, warmup: int = 0) -> list[bool]:
    session_filter = SessionFilter(FilterSettings(window=window, warmup=warmup))
    return [session_filter.keep(score) for score in scores]


def log_normal(count: int, scale: float, seed: int) -> list[int]:
    return [int(x) for x in scale * np.random.default_rng(seed).lognormal(0.0, 1.0, count)]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("scale", [60_000.0, 1.0])
def test_half_of_a_stationary_stream_is_kept_with_and_without_ties(scale: float, seed: int) -> None:
    kept = filtered(log_normal(6000, scale, seed))[1000:]
    assert 0.48 <= float(np.mean(kept)) <= 0.52


@pytest.mark.parametrize("tied", [0.5, 0.7, 1.0])
def test_many_equal_scores_still_keep_half_and_evenly(tied: float) -> None:
    generator = np.random.default_rng(3)
    scores = [0 if generator.random() < tied else int(generator.integers(1, 1000)) for _ in range(4000)]
    kept = np.array(filtered(scores)[1000:])
    assert 0.48 <= kept.mean() <= 0.52
    assert all(0.3 <= kept[i : i + 100].mean() <= 0.7 for i in range(0, 3000, 100))


def test_the_kept_share_recovers_within_one_window_after_the_level_doubles() -> None:
    scores = log_normal(2000, 60_000, 4) + log_normal(3000, 120_000, 5)
    kept = filtered(scores, window=1000)
    assert float(np.mean(kept[2000:2200])) > 0.6  # the shift is seen
    assert 0.47 <= float(np.mean(kept[3000:])) <= 0.53


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.lists(st.integers(0, 20), max_size=20), st.integers(1, 10))
def test_no_decision_looks_ahead(past: list[int], future: list[int], window: int) -> None:
    assert filtered(past + future, window)[: len(past)] == filtered(past, window)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(1, 10))
def test_the_median_is_that_of_the_window(scores: list[int], window: int) -> None:
    session_filter = SessionFilter(FilterSettings(window=window))
    session_filter.prime(scores)
    assert session_filter.median == float(np.median(scores[-window:]))


@given(st.lists(st.integers(0, 5), max_size=40), st.lists(st.integers(0, 5), max_size=40))
def test_a_restored_filter_decides_as_the_original_would(before: list[int], after: list[int]) -> None:
    original, restored = (SessionFilter(FilterSettings(window=7, warmup=3)) for _ in range(2))
    for score in before:
        original.keep(score)
    restored.load_state(original.state())
    assert [restored.keep(s) for s in after] == [original.keep(s) for s in after]


@pytest.mark.parametrize("window", [3, 50])
def test_a_filter_restored_with_another_window_soon_has_the_median_of_that(window: int) -> None:
    original, restored = SessionFilter(FilterSettings(window=10)), SessionFilter(FilterSettings(window=window))
    original.prime(range(100))
    restored.load_state(original.state())
    restored.prime(range(200, 210))
    assert restored.median == float(np.median([*range(90, 100), *range(200, 210)][-window:]))


def test_warm_up_keeps_everything_and_priming_counts_toward_it() -> None:
    assert filtered([5, 4, 3, 2, 1], warmup=3) == [True, True, True, False, False]
    session_filter = SessionFilter(FilterSettings(warmup=3))
    session_filter.prime([5, 5, 6])
    assert not session_filter.keep(4)
