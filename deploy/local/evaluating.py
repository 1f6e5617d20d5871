"""``onerec evaluate``: one policy version judged on the run's test days, with the baselines beside it.

The same users, histories and item index as for the run's own report; docs/evaluate.md explains every figure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from common.item_index import ItemIndex, latest_index
from common.session_log import SessionLog
from common.settings import Settings, load_settings
from deploy.local.evaluation_plots import PLOTS
from deploy.local.evaluation_rewards import generated_figures
from deploy.local.evaluation_table import evaluation_tables
from deploy.local.plots import save_plots
from deploy.local.run_folder import RunFolder, write_json
from deploy.local.versions import find_version, read_policy
from reward_service.scorer import GoneError, Scorer
from rollout.engine import GenerationEngine
from rollout.evaluation import (
    Baselines,
    EvaluationSet,
    NextTokenFigures,
    Rankings,
    build_evaluation_set,
    cold_start_share,
    coverage,
    gini,
    lorenz,
    next_token_figures,
    rank_users,
    recommendation_counts,
    retrieval_scores,
)

Tree = dict[str, Any]
Say = Callable[[str], None]
CUTS = (5, 10, 50)
WIDTHS = (8, 64, 512)
LIST = 10
"""Coverage, Gini and cold-start share are of lists of this length."""
LORENZ_POINTS = 1001


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure. None takes the usual: the run's own beam, and those of `CUTS` and `WIDTHS` that it has room for."""

    beam: int | None = None
    cuts: list[int] | None = None
    widths: list[int] | None = None
    users: int | None = None


def evaluate_run(run: RunFolder, version: str, options: Options, json_file: Path | None, say: Say) -> None:
    """Evaluate a version; leave JSON and plots in ``RUN/evaluation/VERSION`` (the JSON in ``json_file``, too); print tables.

    Raises:
        ValueError: the version or an option is out of range, or the folder lacks a part (named).
    """
    number = find_version(run, version)
    figures = evaluation_figures(run, number, options, say)
    folder = run.evaluation / f"{number:08d}"
    for file in (folder / "evaluation.json", *([json_file] if json_file else [])):
        write_json(file, figures)
    plots = save_plots(folder, PLOTS, figures)
    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in evaluation_tables(figures):
        console.print(table, "")
    console.print(f"figures {json_file or folder / 'evaluation.json'}, {len(plots)} plots in {folder}", soft_wrap=True)


def evaluation_figures(run: RunFolder, version: int, options: Options, say: Say) -> Tree:
    """All figures of one version, by the keys of docs/evaluate.md.

    Raises:
        ValueError: an option is out of range, nobody can be evaluated, or the folder lacks a part (named).
    """
    settings = _settings(run, options)
    index = ItemIndex.load(latest_index(run.index))
    beam = settings.evaluation.beam
    cuts = chosen("--k", options.cuts, CUTS, beam, "the beam")
    widths = chosen("--widths", options.widths, WIDTHS, len(index.trie.leaf_keys), "the semantic IDs in use")
    scorer = Scorer(run.reward, run.index)
    engine = GenerationEngine(read_policy(run, version, settings), index, beam, constrained=True)
    data = _data(run, index, settings)
    say(f"version {version}: next-token loss of {len(data.users):,} users")
    next_token = next_token_figures(engine, data)
    say("ranking by popularity and ItemKNN")
    baselines = Baselines(data, index)
    rankings = baselines.rank(data.users, max(LIST, *cuts))
    rankings["policy"] = rank_users(engine, data, max(LIST, *cuts), progress=_told(say, "ranking"))
    told = _told(say, f"generating and scoring {', '.join(map(str, widths))} items")
    try:
        generated = generated_figures(engine, baselines, data.users, scorer, widths, told)
    except GoneError as error:
        raise ValueError(
            f"{run.path} went on to newer item indexes meanwhile: {error}; evaluate it once it has ended"
        ) from None
    finally:
        scorer.close()
    figures: Tree = {
        "run": run.path.name,
        "version": version,
        "users": len(data.users),
        "items": len(index),
        "index_version": index.version,
        "reward_version": scorer.current.card.version,
        "options": {"beam": beam, "k": cuts, "widths": widths, "mask_seen": settings.evaluation.mask_seen},
        "next_token": _next_token(next_token),
        "legality": generated.legality,
    }
    for name in ("policy", "popularity", "itemknn"):
        figures[name] = _ranked(rankings[name], data, index, cuts) | generated.rewards[name]
    return figures


def chosen(option: str, given: list[int] | None, usual: Sequence[int], most: int, of: str) -> list[int]:
    """The numbers given, ascending, or else those of the usual ones that are at most ``most`` (if none is: just that).

    Raises:
        ValueError: one of those given is not in 1..most.
    """
    if given is None:
        return [k for k in usual if k <= most] or [most]
    for k in given:
        if not 1 <= k <= most:
            raise ValueError(f"{option} must be from 1 to {most} ({of}), got {k}")
    return sorted(set(given))


def _settings(run: RunFolder, options: Options) -> Settings:
    changes = {"beam": options.beam, "max_users": options.users}
    given = [f"evaluation.{name}={value}" for name, value in changes.items() if value is not None]
    return load_settings(run.settings_file, given)


def _data(run: RunFolder, index: ItemIndex, settings: Settings) -> EvaluationSet:
    split = settings.split
    first = split.warm_days + split.stream_days
    data = build_evaluation_set(SessionLog.open(run.log), index, settings, first, split.test_days)
    if not data.users:
        raise ValueError(f"{run.log}: no user has a positive before day {first} and an unseen one in its test days")
    return data


def _next_token(figures: NextTokenFigures | None) -> Tree:
    if figures is None:
        return {"targets": 0} | dict.fromkeys(("loss_per_level", "loss_sum", "loss_mean", "accuracy_per_level"))
    return {
        "targets": figures.targets,
        "loss_per_level": figures.loss.tolist(),
        "loss_sum": float(figures.loss.sum()),
        "loss_mean": float(figures.loss.mean()),
        "accuracy_per_level": figures.accuracy.tolist(),
    }


def _ranked(rankings: Rankings, data: EvaluationSet, index: ItemIndex, cuts: Sequence[int]) -> Tree:
    """What lists of one ranker are worth: retrieval at both levels, and how they spread over the catalogue."""
    scores = asdict(retrieval_scores(rankings, data, index, cuts))
    counts = recommendation_counts(rankings.items, len(index), LIST)
    known = np.concatenate(data.histories)
    trained = np.bincount(known[known >= 0], minlength=len(index)) > 0
    curve = np.interp(np.linspace(0, len(index), LORENZ_POINTS), np.arange(len(index) + 1), lorenz(counts))
    return {name: {str(k): float(values.mean()) for k, values in by_cut.items()} for name, by_cut in scores.items()} | {
        "coverage": coverage(counts),
        "gini": gini(counts),
        "cold_start_share": cold_start_share(counts, trained),
        "lorenz": curve.tolist(),
    }


def _told(say: Say, what: str) -> Callable[[int, int], None]:
    return lambda done, of: say(f"{what}: {done:,} of {of:,} users")
