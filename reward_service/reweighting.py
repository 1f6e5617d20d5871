"""Which weights of the objectives make the P-Score good for all of them at once; nobody has published any.

They begin as 1 / prevalence. ``reward.reweighting_rounds`` looks for better ones, after Pantheon: train, see for which
objective the P-Score ranks worst, raise that one's weight, train again; the best round counts. As AUCs of different labels
do not compare, worst is against the towers' own, see `standings`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from common.settings import Settings
from reward_service.exposures import Exposures
from reward_service.fit import Fit, Floats, Learner, Prevalence
from reward_service.inputs import InputBuilder
from reward_service.labels import OBJECTIVES
from reward_service.preference_model import PreferenceModel

STEP = 0.1
"""Share of the weights that one more round moves, divided by the number of objectives."""


def fit_preference_model(
    builder: InputBuilder, exposures: Exposures, settings: Settings, on_progress: Callable[[str], None]
) -> tuple[Learner, dict[str, Any]]:
    """The trained model in its learner, and its figures; with ``reward.reweighting_rounds`` those of the best weighting."""
    reward, seen = settings.reward, Prevalence.of(exposures)
    weights = objective_weights(seen.rates[: len(OBJECTIVES)], reward.max_weight)
    best: tuple[float, Learner, dict[str, Any]] | None = None
    for number in range(reward.reweighting_rounds + 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            model = PreferenceModel(builder.shape)
        fit = Fit(model, builder, exposures, settings, seen, weights)
        report = fit.run(on_progress)
        standing = standings(report)
        smallest = min(standing.values(), default=0.0)
        if best is None or smallest > best[0]:
            best = smallest, fit.learner, report
        if reward.reweighting_rounds:
            on_progress(f"preference model: weighting {number}, {_told(standing)}")
        if not standing:
            break
        weights = raised(weights, OBJECTIVES.index(min(standing, key=standing.__getitem__)))
    assert best is not None
    return best[1:]


def objective_weights(prevalence: Floats, max_weight: float) -> Floats:
    """w_x = 1 / prevalence_x, at most ``max_weight``; 0 for an objective whose label is always missing (nan)."""
    weights = np.minimum(1.0 / np.maximum(prevalence, 1e-9), max_weight)
    return np.where(np.isnan(prevalence), 0.0, weights)


def raised(weights: Floats, objective: int) -> Floats:
    """Weights of the same sum with that objective's share raised by 0.1 / N and the others' lowered in proportion."""
    shares = weights / weights.sum()
    shares[objective] += STEP / len(weights)
    out: Floats = shares / shares.sum() * weights.sum()
    return out


def standings(report: dict[str, Any]) -> dict[str, float]:
    """How far the P-Score's AUC is above the towers' mean, in their standard deviations, where a label decides anything.

    One that has no label of its own in the P-Score, or fewer than `FEWEST_POSITIVES` judged, is left out.
    """
    figures = {name: report["objectives"][name] for name in OBJECTIVES}
    return {name: f["p_standing"] for name, f in figures.items() if f["p_standing"] is not None}


def _told(standing: dict[str, float]) -> str:
    return "P-Score against the towers: " + " ".join(f"{x} {value:+.2f}" for x, value in standing.items())
