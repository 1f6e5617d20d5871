"""Offline evaluation: protocols that say who is judged on what, rankings of the catalogue, and their figures.

Imports torch and numpy only, so that it runs alone on any machine.
"""

from rollout.evaluation.leave_one_out import leave_one_out, leave_one_out_set
from rollout.evaluation.metrics import (
    FloatArray,
    IntArray,
    cold_start_share,
    coverage,
    gini,
    legality_at,
    lorenz,
    paired_bootstrap,
    pass_and_mean,
    recall_and_ndcg,
    recommendation_counts,
)
from rollout.evaluation.next_token import NextTokenFigures, next_token_figures
from rollout.evaluation.protocol import EvaluationSet, EvaluationUser, build_evaluation_set
from rollout.evaluation.retrieval import (
    CUTS,
    Baselines,
    Rankings,
    RetrievalScores,
    baseline_rankings,
    evaluate_policy,
    rank_items,
    rank_sids,
    rank_users,
    retrieval_scores,
)

__all__ = [
    "CUTS",
    "Baselines",
    "EvaluationSet",
    "EvaluationUser",
    "FloatArray",
    "IntArray",
    "NextTokenFigures",
    "Rankings",
    "RetrievalScores",
    "baseline_rankings",
    "build_evaluation_set",
    "cold_start_share",
    "coverage",
    "evaluate_policy",
    "gini",
    "leave_one_out",
    "leave_one_out_set",
    "legality_at",
    "lorenz",
    "next_token_figures",
    "paired_bootstrap",
    "pass_and_mean",
    "rank_items",
    "rank_sids",
    "rank_users",
    "recall_and_ndcg",
    "recommendation_counts",
    "retrieval_scores",
]
