"""Fit the preference model to a log's first days and commit it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.item_index import ItemIndex
from common.session_log import SessionLog
from common.settings import Settings
from reward_service.artefact import save_artefact
from reward_service.exposures import read_exposures
from reward_service.inputs import InputBuilder, Shape
from reward_service.labels import OBJECTIVES
from reward_service.reweighting import fit_preference_model


def train_preference_model(
    log: SessionLog,
    index: ItemIndex,
    settings: Settings,
    folder: Path,
    train_days: int,
    on_progress: Callable[[str], None],
    of_user: Callable[[int], bool] = lambda _: True,
) -> dict[str, Any]:
    """Train on the exposures of days 0..train_days-1, of all users or of some, and commit to ``folder/reward/NNNNNN``.

    Returns the report: version, impressions, seconds and, per objective, prevalence, weight, AUC, GAUC, calibration
    (predicted / actual rate), reliability (the same by tenths of the predictions) and the AUC and GAUC of the P-Score
    against that objective's label; null where a figure has no meaning (one class only, or the label is missing throughout).

    Raises:
        ValueError: ``train_days`` < 1, or nothing to train on.
    """
    if train_days < 1:
        raise ValueError(f"train_days must be at least 1, got {train_days}")
    began = time.monotonic()
    shape = Shape.of(settings, index)
    exposures = read_exposures(log, index, shape, train_days - 1, of_user)
    on_progress(f"preference model: {len(exposures):,} impressions of {train_days} day(s)")
    learner, report = fit_preference_model(InputBuilder(shape, index), exposures, settings, on_progress)
    report |= {"impressions": len(exposures), "seconds": round(time.monotonic() - began, 2)}
    card = save_artefact(folder / "reward", learner, index, report, clicks_recorded=exposures.clicks_recorded)
    on_progress(f"preference model {card.version}: {report['seconds']:.0f} s, {_headline(report)}")
    return report | {"version": card.version}


def _headline(report: dict[str, Any]) -> str:
    shown = ((x, report["objectives"][x]["auc"]) for x in OBJECTIVES)
    return "AUC " + " ".join(f"{x} {'-' if value is None else format(value, '.3f')}" for x, value in shown)
