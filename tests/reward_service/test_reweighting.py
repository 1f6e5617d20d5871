"""The weights of the objectives: where they begin, and how they move towards what the P-Score ranks worst."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reward_service import fit, reweighting
from reward_service.exposures import read_exposures
from reward_service.inputs import InputBuilder, Shape
from reward_service.labels import OBJECTIVES
from reward_service.reweighting import fit_preference_model, objective_weights, raised, standings
from tests.reward_service.tiny_world import DAYS, make_index, make_sessions, tiny_settings, write_log

INDEX = make_index()


def test_weights_are_inverse_prevalence_clipped_and_zero_where_a_label_is_missing() -> None:
    assert objective_weights(np.array([0.5, 0.01, 0.0, np.nan]), 20.0).tolist() == [2.0, 20.0, 20.0, 0.0]


def test_a_raised_share_keeps_the_sum_and_the_ratios_of_the_others() -> None:
    weights = np.array([2.0, 3.0, 5.0, 0.0])
    found = raised(weights, 1)
    assert found.sum() == pytest.approx(10.0)
    assert found[1] == pytest.approx(10 * (0.3 + 0.1 / 4) / (1 + 0.1 / 4))
    assert found[2] / found[0] == pytest.approx(2.5)
    assert found[3] == 0.0


def test_a_standing_compares_with_the_towers_and_needs_enough_positives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "FEWEST_POSITIVES", 2)
    values = np.array([True, True, False, False])
    right, wrong = np.array([4.0, 3.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0, 4.0])
    towers = np.stack([right, wrong], axis=1)  # AUC 1 and 0: mean and deviation 0.5
    assert fit._standing(1.0, towers, values) == pytest.approx(1.0)
    assert fit._standing(0.25, towers, values) == pytest.approx(-0.5)
    assert fit._standing(1.0, towers[:3], values[:3]) is None


def test_rounds_raise_what_ranks_worst_and_the_best_round_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings(epochs=1, reweighting_rounds=2)
    shape = Shape.of(settings, INDEX)
    exposures = read_exposures(write_log(tmp_path / "log", make_sessions()), INDEX, shape, DAYS - 1)
    told = iter([{"ctr": -0.4, "ltr": 0.3}, {"ctr": 0.1, "ltr": 0.2}, {"ctr": 0.3, "ltr": -2.0}])
    tried: list[np.ndarray] = []

    def told_by(report: dict[str, Any]) -> dict[str, float]:
        tried.append(np.array([report["objectives"][x]["weight"] for x in OBJECTIVES]))
        return next(told)

    monkeypatch.setattr(reweighting, "standings", told_by)
    lines: list[str] = []
    _, report = fit_preference_model(InputBuilder(shape, INDEX), exposures, settings, lines.append)
    np.testing.assert_allclose(tried[1], raised(tried[0], OBJECTIVES.index("ctr")))
    np.testing.assert_allclose(tried[2], raised(tried[1], OBJECTIVES.index("ctr")))
    np.testing.assert_allclose([report["objectives"][x]["weight"] for x in OBJECTIVES], tried[1])
    assert sum("weighting" in line for line in lines) == 3


def test_labels_that_are_too_rare_or_missing_have_no_standing(tmp_path: Path) -> None:
    settings = tiny_settings(epochs=1)
    shape = Shape.of(settings, INDEX)
    exposures = read_exposures(write_log(tmp_path / "log", make_sessions()), INDEX, shape, DAYS - 1)
    _, report = fit_preference_model(InputBuilder(shape, INDEX), exposures, settings, lambda _: None)
    assert standings(report) == {}
    assert report["objectives"]["wtr"]["p_standing"] is None


def test_a_bound_that_leaves_the_p_score_no_weight_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reward\.max_weight"):
        tiny_settings(max_weight=0)
