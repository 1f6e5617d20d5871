"""Evaluation by the frozen protocol, written into the run folder: figures as JSON, per-user values as npy.

Before and after streaming, every policy and baseline sees the same users with histories frozen at the end of the last
streamed day, so that only what was learned differs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from common.item_index import ItemIndex, latest_index
from common.policy import build_policy, load_weights
from common.session_log import SessionLog
from deploy.local.run_folder import RunFolder, write_json
from rollout.engine import GenerationEngine
from rollout.evaluation import (
    CUTS,
    EvaluationSet,
    IntArray,
    baseline_rankings,
    build_evaluation_set,
    evaluate_policy,
    next_token_figures,
    paired_bootstrap,
    recall_and_ndcg,
)


def judge_policy(run: RunFolder, name: str, blob: bytes, say: Any) -> dict[str, Any]:
    """Retrieval and next-token loss of one policy on the test days; leaves ``evaluation/NAME.json`` and arrays."""
    settings = run.settings
    index, data = _load(run)
    policy = build_policy(settings.policy)
    load_weights(policy, blob)
    engine = GenerationEngine(policy, index, settings.evaluation.beam, constrained=True)
    ranked = evaluate_policy(engine, data, progress=lambda done, of: say(f"evaluating {name}: {done:,} of {of:,} users"))
    figures = _figures(run, name, ranked, data)
    next_token = next_token_figures(engine, data)
    if next_token is not None:
        levels = next_token.loss.tolist()
        figures |= {"loss": sum(levels), "loss_per_level": levels}
    write_json(run.evaluation / f"{name}.json", figures)
    return figures


def judge_baselines(run: RunFolder) -> dict[str, Any]:
    """Popularity of the last day and ItemKNN on all watches, for the same users."""
    index, data = _load(run)
    rankings = baseline_rankings(data, index) if data.users else {}
    figures = {name: _figures(run, name, ranked.items, data) for name, ranked in rankings.items()}
    write_json(run.evaluation / "baselines.json", figures)
    return figures


def compare_by_user(run: RunFolder) -> dict[str, Any]:
    """One-sided p-values that the streamed policy's Recall@10 is no better, by resampling the users in pairs."""
    settings = run.settings
    after = _recall(run, "after")
    out: dict[str, float | None] = {}
    for other in ("popularity", "itemknn", "before"):
        theirs = _recall(run, other)
        known = after is not None and theirs is not None
        p = paired_bootstrap(after, theirs, settings.evaluation.bootstrap, settings.seed) if known else None
        out[f"p_value_over_{other}"] = p
    write_json(run.evaluation / "comparison.json", out)
    return out


def _recall(run: RunFolder, name: str) -> Any:
    path = run.evaluation / f"{name}.recall_at_10.npy"
    return np.load(path, allow_pickle=False) if path.exists() else None


def _load(run: RunFolder) -> tuple[ItemIndex, EvaluationSet]:
    settings = run.settings
    index = ItemIndex.load(latest_index(run.index))
    first = settings.split.warm_days + settings.split.stream_days
    return index, build_evaluation_set(SessionLog.open(run.log), index, settings, first, settings.split.test_days)


def _figures(run: RunFolder, name: str, ranked: list[IntArray], data: EvaluationSet) -> dict[str, Any]:
    figures: dict[str, Any] = {"users": len(data.users)}
    if not data.users:
        return figures
    run.evaluation.mkdir(exist_ok=True)
    targets = [user.targets for user in data.users]
    for cut in CUTS:
        recall, ndcg = recall_and_ndcg(ranked, targets, cut)
        np.save(run.evaluation / f"{name}.recall_at_{cut}.npy", recall, allow_pickle=False)
        figures |= {f"recall_at_{cut}": float(recall.mean()), f"ndcg_at_{cut}": float(ndcg.mean())}
    return figures
