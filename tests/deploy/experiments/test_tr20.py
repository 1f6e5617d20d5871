"""P-Score against towers, on scores whose standing is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deploy.experiments import tr20
from deploy.experiments.tr20 import BY_HAND, HAND, JUDGED, P_SCORE, SAME, Model, Scored, assess, fit_and_score
from reward_service.inputs import Shape
from reward_service.labels import OBJECTIVES, TOWERS, Labels
from tests.deploy.data.tables_on_disk import shared_data

IMPRESSIONS, USERS = 4000, 200


def world(seed: int = 0) -> tuple[Labels, np.ndarray, dict[str, np.ndarray]]:
    """Labels of two tastes that have nothing to do with each other, and what each label is a noisy sign of."""
    rng = np.random.default_rng(seed)
    tastes = rng.normal(size=(2, IMPRESSIONS))
    signals = {name: tastes[k % 2] for k, name in enumerate(TOWERS)}
    values = np.stack([signals[name] + rng.normal(size=IMPRESSIONS) > 1 for name in TOWERS], axis=1)
    return Labels(values, np.ones_like(values)), rng.integers(0, USERS, IMPRESSIONS), signals


def scored(p: np.ndarray, towers: dict[str, np.ndarray], seed: int) -> Scored:
    scores = {P_SCORE: p, **towers}
    as_lists = {name: (1 / (1 + np.exp(-values))).tolist() for name, values in scores.items()}
    return Scored(key="", arm="", seed=seed, seconds=0, commit=f"c{seed}", weights=[1.0] * len(OBJECTIVES), scores=as_lists)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tr20, "RESAMPLES", 50)


def test_a_score_that_knows_both_tastes_has_the_better_worst_objective() -> None:
    labels, user, signals = world()
    both = signals["ctr"] + signals["lvtr"]
    result = assess([scored(both, signals, seed) for seed in range(3)], labels, user, Model())
    assert result.claims[0].holds
    assert min(result.claims[0].figures["margins"]) > 0
    assert set(result.figures["AUC of ctr"]) == {P_SCORE, BY_HAND, SAME, *TOWERS}
    assert result.commits == {Model().name: ["c0", "c1", "c2"]}


def test_a_score_that_knows_one_taste_has_not() -> None:
    labels, user, signals = world()
    result = assess([scored(signals["ctr"], signals, seed) for seed in range(3)], labels, user, Model())
    assert not result.claims[0].holds
    by_label = dict(zip(JUDGED, result.claims[1:], strict=True))
    assert by_label["ctr"].holds  # the towers by hand weights mix the other taste in
    assert not by_label["lvtr"].holds


def test_runs_by_other_settings_of_the_profile_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tr20._key(Model())
    assert tr20._key(Model()) == before
    monkeypatch.setenv("ONEREC_REWARD__LEARNING_RATE", "0.004")
    assert tr20._key(Model()) != before


def test_hand_weights_cover_the_objectives() -> None:
    assert tuple(HAND) == OBJECTIVES


@pytest.mark.slow
def test_the_preference_model_of_kuairand_is_judged_on_the_days_it_did_not_see(tmp_path: Path) -> None:
    log, index = tr20._world(shared_data("kuairand_pure"), tmp_path / "kuairand", lambda _: None)
    one = fit_and_score(log.path, tmp_path / "kuairand", lambda _: None, Model(rounds=0), 0)
    shape = Shape.of(tr20._settings(Model(), 0), index)
    whole, first = tr20._test_exposures(log, index, shape)
    labels, user = whole.labels.take(slice(first, None)), whole.user[first:]
    result = assess([one, one, one], labels, user, Model())
    assert result.design["positives"]["ltr"] == 698
    assert all(0.65 < result.figures[f"AUC of {name}"][P_SCORE][0] < 0.85 for name in JUDGED)
