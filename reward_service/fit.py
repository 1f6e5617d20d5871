"""Fitting the preference model to exposures, and how well it then ranks.

Earlier sessions are passed ``reward.epochs`` times in log order; the last tenth is passed once, at the end, and every
batch of it is judged before it is learned from (progressive validation): the reported figures are those of a model
that has not seen the impressions it is judged on, and yet the newest data are in the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.settings import Settings
from reward_service.exposures import Exposures
from reward_service.inputs import InputBuilder, Inputs
from reward_service.labels import OBJECTIVES, TOWERS, Labels
from reward_service.metrics import auc, grouped_auc, reliability
from reward_service.preference_model import Outputs, PreferenceModel, preference_loss

JUDGED_SHARE = 0.1
FEWEST_POSITIVES = 100
"""Fewer judged ones decide nothing about a ranking."""
RELIABILITY_BINS = 10
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Prevalence:
    """Rates of positives by tower before ``judged_from``, the first target that is judged; nan where a label is missing."""

    judged_from: int
    rates: Floats

    @staticmethod
    def of(exposures: Exposures) -> Prevalence:
        """Those of a log."""
        end = exposures.split(JUDGED_SHARE) or len(exposures)
        known = exposures.labels.known[:end].sum(0)
        positive = exposures.labels.values[:end].sum(0)
        return Prevalence(end, np.where(known > 0, positive / np.maximum(known, 1), np.nan))


class Learner:
    """A model and its optimizer: predicts a batch, then learns from it."""

    def __init__(self, model: PreferenceModel, weights: Floats, learning_rate: float) -> None:
        self.model, self.weights = model.train(), weights
        self._weights = torch.from_numpy(weights.astype(np.float32))
        self._optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

    def step(self, inputs: Inputs, labels: Labels) -> tuple[float, Outputs]:
        """The loss and the outputs from before the update."""
        outputs = self.model(inputs)
        values, known = (torch.from_numpy(array.astype(np.float32)) for array in (labels.values, labels.known))
        loss: Tensor = preference_loss(outputs, values, known, self._weights)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.item(), Outputs(outputs.towers.detach(), outputs.p.detach())

    def state(self) -> dict[str, Tensor]:
        """The optimizer's state as flat named tensors."""
        state = self._optimizer.state_dict()["state"]
        return {f"{number}.{name}": tensor for number, tensors in state.items() for name, tensor in tensors.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore `state`."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = tensor
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": state})


class Fit:
    """One training run over fixed exposures."""

    def __init__(
        self,
        model: PreferenceModel,
        builder: InputBuilder,
        exposures: Exposures,
        settings: Settings,
        seen: Prevalence,
        weights: Floats,
    ) -> None:
        self.builder, self.exposures, self.settings, self.seen = builder, exposures, settings, seen
        judged = np.nan_to_num(seen.rates[: len(OBJECTIVES)])
        model.start_at(
            {x: rate for x, rate in zip(TOWERS, seen.rates.tolist(), strict=True) if not np.isnan(rate)},
            float((weights * judged).sum() / max(weights.sum(), 1e-9)),
        )
        self.learner = Learner(model, weights, settings.reward.learning_rate)

    def run(self, on_progress: Callable[[str], None]) -> dict[str, Any]:
        """All passes; returns the figures of the progressive validation."""
        size, first = self.settings.reward.batch, self.seen.judged_from
        for epoch in range(self.settings.reward.epochs):
            losses = [self.step(b)[0] for b in self.exposures.batches(size, 0, first)]
            on_progress(f"preference model: pass {epoch + 1}, mean loss {np.mean(losses):.4f}")
        outputs = [self.step(batch)[1] for batch in self.exposures.batches(size, first, len(self.exposures))]
        self.learner.model.eval()
        labels = self.exposures.labels.take(slice(first, None))
        objectives = judged_figures(outputs, labels, self.exposures.user[first:], self.learner.weights)
        for name, rate in zip(TOWERS, self.seen.rates.tolist(), strict=True):
            objectives[name]["prevalence"] = None if np.isnan(rate) else rate
        return {"judged": len(labels), "objectives": objectives}

    def step(self, batch: slice) -> tuple[float, Outputs]:
        """Predict a batch, then learn from it."""
        inputs = self.builder(self.exposures.requests, self.exposures.targets.take(batch))
        return self.learner.step(inputs, self.exposures.labels.take(batch))


def judged_figures(
    outputs: Sequence[Outputs], labels: Labels, user: npt.NDArray[np.int64], weights: Floats
) -> dict[str, dict[str, Any]]:
    """By tower, how outputs compare with the labels of the same impressions, each by a user.

    ``auc``, ``gauc``, ``calibration`` (predicted / actual rate), ``reliability``; for the P-Score's objectives also their
    ``weight``, ``p_auc``, ``p_gauc`` and ``p_standing`` (`reward_service.reweighting.standings`). None: has no meaning.
    """
    towers = torch.cat([torch.empty(0, len(TOWERS)), *(o.towers for o in outputs)]).sigmoid().numpy()
    p = torch.cat([torch.empty(0), *(o.p for o in outputs)]).numpy()
    found: dict[str, dict[str, Any]] = {}
    for x, name in enumerate(TOWERS):
        known = labels.known[:, x]
        values = labels.values[known, x]
        found[name] = _figures(towers[known, x], values, user[known])
        if name in OBJECTIVES:
            p_auc = auc(p[known], values)
            found[name] |= {"p_auc": p_auc, "p_gauc": grouped_auc(p[known], values, user[known])}
            found[name] |= {"weight": float(weights[x]), "p_standing": _standing(p_auc, towers[known], values)}
    return found


def _figures(scores: Floats, values: npt.NDArray[np.bool_], user: npt.NDArray[np.int64]) -> dict[str, Any]:
    calibration = float(scores.mean() / values.mean()) if values.any() else None
    return {
        "auc": auc(scores, values),
        "gauc": grouped_auc(scores, values, user),
        "calibration": calibration,
        "reliability": reliability(scores, values, RELIABILITY_BINS),
    }


def _standing(p_auc: float | None, towers: Floats, values: npt.NDArray[np.bool_]) -> float | None:
    if p_auc is None or min(values.sum(), (~values).sum()) < FEWEST_POSITIVES:
        return None
    found = np.array([auc(towers[:, k], values) for k in range(towers.shape[1])], float)
    return float((p_auc - found.mean()) / max(found.std(), 1e-9))
