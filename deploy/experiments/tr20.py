"""The P-Score ranks well for all objectives at once, where every tower ranks best for its own (KuaiRand, preference model).

The preference model is fitted to the days through 05-01, its objectives' weights are searched for on their newest tenth, and
impressions of 05-02 and 05-03 are judged. AUCs of different labels compare after standardising them over P-Score and towers.
The rivals that combine towers are sums of their probabilities: by the weights that the search found (the optimum of the
P-Score is that very sum, so that no gain is expected), and by weights fixed beforehand.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness import Claim, commit
from benchmarks.runs import SEEDS, Kept, KeptRun, all_runs, key_of
from benchmarks.simulated_sessions import Say
from common.item_index import ItemIndex, latest_index
from common.session_log import SessionLog
from common.settings import Section, Settings, load_settings
from deploy.data.kuairand import import_kuairand
from deploy.experiments.trials import ExperimentResult
from reward_service.exposures import Exposures, read_exposures
from reward_service.inputs import InputBuilder, Shape
from reward_service.labels import INTERACTION, OBJECTIVES, TOWERS, Labels
from reward_service.metrics import auc, resampled_aucs
from reward_service.reweighting import fit_preference_model
from tokenizer_job.job import build_index

NAME = "tr20"
TRAIN_DAYS, TEST_DAYS = 7, 2
ROUNDS = 10
JUDGED = ("ctr", "lvtr", "ltr", INTERACTION)
"""With at least 500 positives on the test days; the others are shown, and decide nothing."""
SHOWN = (*JUDGED, "wtr", "cmtr")
HAND = {"ctr": 1.0, "lvtr": 1.0, "vtr": 1.0, "ltr": 10.0, "wtr": 20.0, "cmtr": 20.0}
P_SCORE, BY_HAND, SAME = "P-Score", "towers by hand weights", "towers by the same weights"
RESAMPLES = 500
PAPER = {"criterion": "the P-Score's AUC rises on all objectives"}
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Model(Section):
    """What is fitted."""

    name: str = "preference model"
    rounds: int = ROUNDS
    profile: str = "kuairand"


class Scored(KeptRun):
    """One fitted model's scores of the test impressions, in log order."""

    weights: list[float]
    """That the search ended with, by objective."""
    scores: dict[str, list[float]]
    """Of the P-Score and every tower."""


def run(cache: Path, on_progress: Say, data: Path) -> ExperimentResult:
    """Three seeds, each fitted eleven times; a quarter of an hour on two cores. ``data`` is a KuaiRand folder."""
    log, index = _world(data, cache / "kuairand", on_progress)
    model = Model()
    kept = Kept(cache / "tr20.jsonl", Scored)
    work = partial(fit_and_score, log.path, cache / "kuairand", on_progress)
    runs = all_runs(kept, [model], SEEDS, _key, work, _told, on_progress)[model.name]
    shape = Shape.of(_settings(model, 0), index)
    whole, first = _test_exposures(log, index, shape)
    return assess(runs, whole.labels.take(slice(first, None)), whole.user[first:], model)


def fit_and_score(log: Path, folder: Path, on_progress: Say, model: Model, seed: int) -> Scored:
    """Fit the model of a seed and score the test impressions."""
    began, settings = time.monotonic(), _settings(model, seed)
    sessions, index = SessionLog.open(log), ItemIndex.load(latest_index(folder / "index"))
    shape = Shape.of(settings, index)
    builder = InputBuilder(shape, index)
    training = read_exposures(sessions, index, shape, TRAIN_DAYS - 1)
    learner, _ = fit_preference_model(builder, training, settings, on_progress)
    whole, first = _test_exposures(sessions, index, shape)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in (P_SCORE, *TOWERS)}
    with torch.inference_mode():
        for batch in whole.batches(2048, first, len(whole)):
            outputs = learner.model(builder(whole.requests, whole.targets.take(batch)))
            found[P_SCORE].append(outputs.p)
            for k, tower in enumerate(TOWERS):
                found[tower].append(outputs.towers[:, k])
    scores = {name: torch.cat(parts).sigmoid().tolist() for name, parts in found.items()}
    return Scored(
        key=_key(model),
        arm=model.name,
        seed=seed,
        seconds=time.monotonic() - began,
        commit=commit(),
        weights=learner.weights.tolist(),
        scores=scores,
    )


def assess(runs: Sequence[Scored], labels: Labels, user: Ints, model: Model) -> ExperimentResult:
    """What the scores of impressions with these labels, each shown to a user, come to."""
    every = [_rivals(one) for one in runs]
    owner = np.unique(user, return_inverse=True)[1]
    size, rng = int(owner.max()) + 1, np.random.default_rng(0)
    draws = np.stack([np.bincount(rng.integers(0, size, size), minlength=size) for _ in range(RESAMPLES)])
    figures: dict[str, dict[str, list[float]]] = {}
    means: dict[str, dict[str, Floats]] = {}
    for name in SHOWN:
        known = labels.known[:, TOWERS.index(name)]
        values = labels.values[known, TOWERS.index(name)]
        figures[name] = {r: [float(auc(one[r][known], values) or np.nan) for one in every] for r in every[0]}
        resampled = {r: [resampled_aucs(one[r][known], values, owner[known], draws) for one in every] for r in every[0]}
        means[name] = {rival: np.mean(per_seed, 0) for rival, per_seed in resampled.items()}
    claims = [_worst_is_best(figures, means), *(_not_below(figures, means, name) for name in JUDGED)]
    return ExperimentResult(
        name=NAME,
        source="OneRec technical report, section 2.4.1",
        paper=PAPER,
        claims=claims,
        figures={f"AUC of {name}": by_rival for name, by_rival in figures.items()},
        curves={},
        design={
            "model": model.model_dump(),
            "test days": TEST_DAYS,
            "hand weights": HAND,
            "weights found": [dict(zip(OBJECTIVES, one.weights, strict=True)) for one in runs],
            "impressions": len(user),
            "positives": {name: int(labels.values[:, TOWERS.index(name)].sum()) for name in SHOWN},
            "P-Score over the hand weights, 95 % intervals": {name: _interval(means, name) for name in SHOWN},
        },
        commits={model.name: [one.commit for one in runs]},
    )


def plot(axes: Any, result: ExperimentResult) -> bool:
    """How far the P-Score's AUC is from that of the towers by hand weights: every seed, and the interval of their mean."""
    for k, name in enumerate(SHOWN):
        low, high = result.design["P-Score over the hand weights, 95 % intervals"][name]
        axes.plot([k, k], [low, high], color="C0", linewidth=2)
        ours, theirs = (result.figures[f"AUC of {name}"][rival] for rival in (P_SCORE, BY_HAND))
        axes.plot([k] * len(ours), np.subtract(ours, theirs), "o", color="C0", markersize=4)
    axes.axhline(0, color="black", linewidth=1)
    axes.set_xticks(range(len(SHOWN)), SHOWN)
    axes.set(title="P-Score and towers by hand weights", ylabel="difference of the AUCs")
    return True


def _key(model: Model) -> str:
    """The profile's settings decide a run as well."""
    return key_of(model, _settings(model, 0).reward)


def _told(scored: Scored) -> str:
    return "weights " + " ".join(f"{x} {w:.1f}" for x, w in zip(OBJECTIVES, scored.weights, strict=True))


def _world(data: Path, folder: Path, on_progress: Say) -> tuple[SessionLog, ItemIndex]:
    """The log and its item index, made once without the test days."""
    if not (folder / "log").exists():
        folder.mkdir(parents=True, exist_ok=True)
        import_kuairand(data, folder / "log", on_progress)
    log = SessionLog.open(folder / "log")
    if not (folder / "index").exists():
        build_index(log, _settings(Model(), 0), folder, TRAIN_DAYS, on_progress)
    return log, ItemIndex.load(latest_index(folder / "index"))


def _settings(model: Model, seed: int) -> Settings:
    return load_settings(model.profile, [f"seed={seed}", f"reward.reweighting_rounds={model.rounds}"])


def _test_exposures(log: SessionLog, index: ItemIndex, shape: Shape) -> tuple[Exposures, int]:
    """All exposures, and the number of the first on a test day; every one with the history before it."""
    whole = read_exposures(log, index, shape, TRAIN_DAYS + TEST_DAYS - 1)
    return whole, len(read_exposures(log, index, shape, TRAIN_DAYS - 1))


def _rivals(one: Scored) -> dict[str, Floats]:
    """Scores by what gives them."""
    found = {name: np.array(values) for name, values in one.scores.items()}
    towers = np.stack([found[x] for x in OBJECTIVES], axis=1)
    return found | {BY_HAND: towers @ [HAND[x] for x in OBJECTIVES], SAME: towers @ one.weights}


def _margins(aucs: dict[str, dict[str, Floats]]) -> Floats:
    """By how much the P-Score's smallest standardised AUC exceeds the best of the towers' smallest ones.

    ``aucs``: by judged objective and rival, any shape; the same shape comes back.
    """
    table = np.stack([[np.asarray(aucs[name][rival]) for rival in (P_SCORE, *TOWERS)] for name in JUDGED])
    standard = (table - table.mean(1, keepdims=True)) / table.std(1, keepdims=True)
    smallest = standard.min(0)
    return np.asarray(smallest[0] - smallest[1:].max(0))


def _worst_is_best(figures: dict[str, dict[str, list[float]]], means: dict[str, dict[str, Floats]]) -> Claim:
    margins = _margins({name: {rival: np.array(v) for rival, v in by.items()} for name, by in figures.items()})
    p = float((1 + (_margins(means) <= 0).sum()) / (1 + RESAMPLES))
    return Claim(
        claim="the smallest of the P-Score's standardised AUCs exceeds every single tower's",
        holds=bool(margins.min() > 0 and p < 0.05),
        figures={"margins": margins.tolist(), "p": p},
    )


def _not_below(figures: dict[str, dict[str, list[float]]], means: dict[str, dict[str, Floats]], name: str) -> Claim:
    ours, theirs = figures[name][P_SCORE], figures[name][BY_HAND]
    return Claim(
        claim=f"on {name} the P-Score's AUC, mean of the seeds, is not below that of the towers by hand weights",
        holds=float(np.mean(ours)) >= float(np.mean(theirs)),
        figures={"differences": np.subtract(ours, theirs).tolist(), "95 % interval": _interval(means, name)},
    )


def _interval(means: dict[str, dict[str, Floats]], name: str) -> list[float]:
    low, high = np.quantile(means[name][P_SCORE] - means[name][BY_HAND], (0.025, 0.975))
    return [float(low), float(high)]
