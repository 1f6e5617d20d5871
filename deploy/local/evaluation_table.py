"""An evaluation as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from deploy.local.evaluation_rewards import METRICS

Tree = dict[str, Any]
RANKERS = {"policy": "policy", "popularity": "popularity", "itemknn": "ItemKNN"}
LEVELS = {"": "item", "sid_": "semantic ID"}


def evaluation_tables(figures: Tree) -> Iterator[Table]:
    """Prediction by level, legality by K, retrieval beside the baselines, and rewards by K."""
    yield _prediction(figures)
    yield _legality(figures)
    yield _retrieval(figures)
    yield _rewards(figures)


def _prediction(figures: Tree) -> Table:
    found = figures["next_token"]
    loss, accuracy = found["loss_per_level"] or [], found["accuracy_per_level"] or []
    where = f"{figures['users']:,} users, {figures['items']:,} items"
    table = _table(f"Run {figures['run']} · version {figures['version']} · {where}", "next token")
    for level in range(1, len(loss) + 1):
        table.add_column(f"level {level}", justify="right")
    table.add_column("sum", justify="right")
    table.add_column("mean", justify="right")
    table.add_row("loss, nats", *map(_number, (*loss, found["loss_sum"], found["loss_mean"])))
    table.add_row("accuracy", *map(_share, accuracy), "", "")
    table.caption = f"{found['targets']:,} targets"
    return table


def _legality(figures: Tree) -> Table:
    table = _table(f"Legality · free beam of {max(figures['options']['widths'])}", "")
    for k in figures["legality"]:
        table.add_column(f"best {k}", justify="right")
    table.add_row("candidates that are items", *map(_share, figures["legality"].values()))
    return table


def _retrieval(figures: Tree) -> Table:
    options = figures["options"]
    table = _table(f"Retrieval · constrained beam {options['beam']}", "")
    for title in RANKERS.values():
        table.add_column(title, justify="right")
    for prefix, level in LEVELS.items():
        for metric, name in (("recall", "Recall"), ("ndcg", "NDCG")):
            for k in options["k"]:
                row = (figures[ranker][f"{prefix}{metric}"][str(k)] for ranker in RANKERS)
                table.add_row(f"{name}@{k}, {level}", *map(_number, row))
        table.add_section()
    shares = {
        "coverage": "coverage@10",
        "gini": "Gini of recommendation counts@10",
        "cold_start_share": "cold-start share@10",
    }
    for key, name in shares.items():
        table.add_row(name, *(_number(figures[ranker][key]) for ranker in RANKERS))
    table.caption = "items seen before are left out" if options["mask_seen"] else "items seen before are ranked, too"
    return table


def _rewards(figures: Tree) -> Table:
    table = _table(f"Predicted rewards of K items · preference model {figures['reward_version']}", "")
    for metric in METRICS:
        table.add_column("P-Score" if metric == "p_score" else metric, justify="right")
    for ranker, title in RANKERS.items():
        for kind, name in (("pass", "Pass"), ("mean", "mean")):
            for k, row in figures[ranker][kind].items():
                table.add_row(f"{title} {name}@{k}", *(_number(row[metric]) for metric in METRICS))
        table.add_section()
    table.caption = "Pass@K: a user's best of K; the policy searches with K beams for each K"
    return table


def _table(title: str, corner: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column(corner, no_wrap=True)
    return table


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.4f}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
