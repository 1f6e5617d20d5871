"""Fit the preference model to a log's first days and commit it.

Earlier sessions are passed ``reward.epochs`` times in log order; the last tenth is passed once, at the end, and every
batch of it is judged before it is learned from (progressive validation): the reported figures are those of a model
that has not seen the impressions it is judged on, and yet the newest data are in the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.item_index import ItemIndex
from common.session_log import SessionLog
from common.settings import Settings
from reward_service.artefact import save_artefact
from reward_service.exposures import Exposures, read_exposures
from reward_service.inputs import InputBuilder, Shape
from reward_service.labels import OBJECTIVES, TOWERS
from reward_service.metrics import auc, grouped_auc
from reward_service.preference_model import Outputs, PreferenceModel, preference_loss

JUDGED_SHARE = 0.1
Floats = npt.NDArray[np.floating]


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
    (predicted / actual rate) and the AUC and GAUC of the P-Score against that objective's label; null where a figure
    has no meaning (one class only, or the label is missing throughout).

    Raises:
        ValueError: ``train_days`` < 1, or nothing to train on.
    """
    if train_days < 1:
        raise ValueError(f"train_days must be at least 1, got {train_days}")
    began = time.monotonic()
    shape = Shape.of(settings, index)
    exposures = read_exposures(log, index, shape, train_days - 1, of_user)
    on_progress(f"preference model: {len(exposures):,} impressions of {train_days} day(s)")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = PreferenceModel(shape)
    fit = Fit(model, InputBuilder(shape, index), exposures, settings)
    report = fit.run(on_progress)
    report |= {"impressions": len(exposures), "seconds": round(time.monotonic() - began, 2)}
    card = save_artefact(folder / "reward", model, index.tokenizer_version, index.version, report)
    on_progress(f"preference model {card.version}: {report['seconds']:.0f} s, {_headline(report)}")
    return report | {"version": card.version}


class Fit:
    """One training run over fixed exposures."""

    def __init__(self, model: PreferenceModel, builder: InputBuilder, exposures: Exposures, settings: Settings) -> None:
        self.model, self.builder, self.exposures, self.settings = model, builder, exposures, settings
        self.judged_from = exposures.split(JUDGED_SHARE) or len(exposures)
        rates = _prevalence(exposures, self.judged_from)
        self.rates = dict(zip(TOWERS, rates.tolist(), strict=True))
        self.weights = objective_weights(rates[: len(OBJECTIVES)], settings.reward.max_weight)
        judged = np.nan_to_num(rates[: len(OBJECTIVES)])
        model.start_at(
            {x: rate for x, rate in self.rates.items() if not np.isnan(rate)},
            float((self.weights * judged).sum() / max(self.weights.sum(), 1e-9)),
        )
        self._values = torch.from_numpy(exposures.labels.values.astype(np.float32))
        self._known = torch.from_numpy(exposures.labels.known.astype(np.float32))
        self._weights = torch.from_numpy(self.weights.astype(np.float32))
        self._optimizer = torch.optim.Adam(model.parameters(), lr=settings.reward.learning_rate)

    def run(self, on_progress: Callable[[str], None]) -> dict[str, Any]:
        """All passes; returns the figures of the progressive validation."""
        size = self.settings.reward.batch
        for epoch in range(self.settings.reward.epochs):
            losses = [self.step(b)[0] for b in self.exposures.batches(size, 0, self.judged_from)]
            on_progress(f"preference model: pass {epoch + 1}, mean loss {np.mean(losses):.4f}")
        tail = self.exposures.batches(size, self.judged_from, len(self.exposures))
        outputs = [self.step(batch)[1] for batch in tail]
        self.model.eval()
        return self._report(outputs)

    def step(self, batch: slice) -> tuple[float, Outputs]:
        """Predict a batch, then learn from it; returns the loss and the outputs from before the update."""
        outputs = self.model(self.builder(self.exposures.requests, self.exposures.targets.take(batch)))
        loss: Tensor = preference_loss(outputs, self._values[batch], self._known[batch], self._weights)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.item(), Outputs(outputs.towers.detach(), outputs.p.detach())

    def _report(self, outputs: list[Outputs]) -> dict[str, Any]:
        towers = torch.cat([torch.empty(0, len(TOWERS)), *(o.towers for o in outputs)]).sigmoid().numpy()
        p = torch.cat([torch.empty(0), *(o.p for o in outputs)]).numpy()
        labels, user = self.exposures.labels, self.exposures.user[self.judged_from :]
        objectives = {}
        for x, name in enumerate(TOWERS):
            known = labels.known[self.judged_from :, x]
            values = labels.values[self.judged_from :, x][known]
            figures = _figures(towers[known, x], values, user[known])
            if name in OBJECTIVES:
                figures |= {"p_auc": auc(p[known], values), "p_gauc": grouped_auc(p[known], values, user[known])}
                figures["weight"] = float(self.weights[x])
            objectives[name] = figures | {"prevalence": None if np.isnan(self.rates[name]) else self.rates[name]}
        return {"judged": len(p), "objectives": objectives}


def objective_weights(prevalence: Floats, max_weight: float) -> Floats:
    """w_x = 1 / prevalence_x, at most ``max_weight``; 0 for an objective whose label is always missing (nan)."""
    weights = np.minimum(1.0 / np.maximum(prevalence, 1e-9), max_weight)
    return np.where(np.isnan(prevalence), 0.0, weights)


def _prevalence(exposures: Exposures, end: int) -> Floats:
    known = exposures.labels.known[:end].sum(0)
    positive = exposures.labels.values[:end].sum(0)
    return np.where(known > 0, positive / np.maximum(known, 1), np.nan)


def _figures(scores: Floats, values: npt.NDArray[np.bool_], user: npt.NDArray[np.int64]) -> dict[str, float | None]:
    calibration = float(scores.mean() / values.mean()) if values.any() else None
    return {"auc": auc(scores, values), "gauc": grouped_auc(scores, values, user), "calibration": calibration}


def _headline(report: dict[str, Any]) -> str:
    shown = ((x, report["objectives"][x]["auc"]) for x in OBJECTIVES)
    return "AUC " + " ".join(f"{x} {'-' if value is None else format(value, '.3f')}" for x, value in shown)
