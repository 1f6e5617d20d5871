"""Running means over new items, and when they raise the alarm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer_job.drift import MEMORY, Drift


def after(drift: Drift, norms: list[float], empty: list[bool] | None = None) -> Drift:
    return drift.after(np.array(norms), np.array(empty or [False] * len(norms)))


def test_before_the_first_new_item_nothing_has_drifted() -> None:
    drift = after(Drift(reference=0.5), [])
    assert (drift.items, drift.ratio, drift.alarms(0.2)) == (0, 1.0, False)


@given(st.lists(st.lists(st.floats(0, 10), min_size=1, max_size=20), min_size=1, max_size=10))
def test_few_items_have_a_plain_mean_however_they_were_batched(batches: list[list[float]]) -> None:
    drift = Drift(reference=1.0)
    for batch in batches:
        drift = after(drift, batch)
    everything = [norm for batch in batches for norm in batch]
    assert drift.items == len(everything)
    assert drift.residual_norm == pytest.approx(np.mean(everything))
    assert drift.ratio == pytest.approx(np.mean(everything))


def test_older_items_are_forgotten() -> None:
    drift = after(Drift(reference=1.0), [1.0] * int(MEMORY))
    for _ in range(10):
        drift = after(drift, [2.0] * 500)
    assert drift.residual_norm == pytest.approx(2.0, abs=0.01)


def test_the_alarm_is_raised_beyond_the_share_and_not_before() -> None:
    assert not after(Drift(reference=2.0), [2.3] * 10).alarms(0.2)
    assert after(Drift(reference=2.0), [2.5] * 10).alarms(0.2)


def test_the_share_of_unused_ids_and_a_round_trip() -> None:
    drift = after(Drift(reference=1.0), [1.0, 1.0, 1.0, 1.0], [True, False, False, False])
    assert drift.empty_share == pytest.approx(0.25)
    assert Drift.model_validate_json(drift.model_dump_json()) == drift
