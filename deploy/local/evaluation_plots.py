"""An evaluation's pictures, drawn by `deploy.local.plots.save_plots` from its figures alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deploy.local.evaluation_table import RANKERS

Tree = dict[str, Any]
COLOURS = {"policy": "C0", "popularity": "C2", "itemknn": "C1"}


def recall(axes: Any, figures: Tree) -> bool:
    """Recall@K over K, the policy at item and at SID level beside the baselines at item level."""
    cuts = figures["options"]["k"]
    under = list(figures["policy"]["sid_recall"].values())
    axes.plot(cuts, under, color=COLOURS["policy"], linewidth=6, alpha=0.25, label="policy, semantic IDs")
    for ranker, title in RANKERS.items():
        axes.plot(cuts, list(figures[ranker]["recall"].values()), "o-", color=COLOURS[ranker], label=title)
    axes.set_ylim(bottom=0)
    axes.set(title=f"Recall@K on the test days, {figures['users']:,} users", xlabel="K")
    _log_axis(axes, cuts)
    axes.figure.legend(loc="outside lower center", ncols=4)
    return True


def next_token(axes: Any, figures: Tree) -> bool:
    """Loss and accuracy of every level, side by side."""
    found = figures["next_token"]
    if not found["targets"]:
        return False
    left, right = _panels(axes)
    levels = [str(level) for level in range(1, len(found["loss_per_level"]) + 1)]
    left.bar_label(left.bar(levels, found["loss_per_level"]), fmt="%.3f")
    left.set(title="Next-token loss", xlabel="level", ylabel="nats")
    shares = [100 * share for share in found["accuracy_per_level"]]
    right.bar_label(right.bar(levels, shares), fmt="%.1f %%")
    right.set(title="Accuracy of the likeliest code", xlabel="level", ylabel="% of the targets")
    for panel in (left, right):
        panel.margins(y=0.1)
    return True


def recommendation_counts(axes: Any, figures: Tree) -> bool:
    """Lorenz curves: which share of all recommendations the least recommended share of the items has."""
    recommended = 100 * max(figures[ranker]["coverage"] for ranker in RANKERS)
    whole, enlarged = _panels(axes)
    for panel in (whole, enlarged):
        for ranker, title in RANKERS.items():
            shares = 100 * np.array(figures[ranker]["lorenz"])
            label = f"{title}, Gini {figures[ranker]['gini']:.3f}"
            panel.plot(np.linspace(0, 100, len(shares)), shares, color=COLOURS[ranker], label=label)
        panel.set_xlabel("% of the items, least recommended first")
    whole.plot([0, 100], [0, 100], ":", color="gray", label="all items alike")
    whole.set(title="Recommendation counts, top 10", ylabel="% of the recommendations")
    whole.figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    enlarged.set(title="Enlarged: recommended at all", xlim=(100 - 1.05 * recommended, 100))
    return True


def pass_at_k(axes: Any, figures: Tree) -> bool:
    """P-Score of the best and of the mean item of K, over K; one K makes no course."""
    widths = figures["options"]["widths"]
    if len(widths) < 2:
        return False
    for ranker, title in RANKERS.items():
        for kind, style, what in (("pass", "o-", "best of K"), ("mean", "x--", "mean of K")):
            values = [row["p_score"] for row in figures[ranker][kind].values()]
            axes.plot(widths, values, style, color=COLOURS[ranker], label=f"{title}, {what}")
    axes.set(title="Predicted P-Score of K items", xlabel="K")
    _log_axis(axes, widths)
    axes.figure.legend(loc="outside lower center", ncols=3)
    return True


def _log_axis(axes: Any, places: list[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(places, [str(place) for place in places])
    axes.minorticks_off()


def _panels(axes: Any) -> Any:
    """Two axes side by side in the place of one."""
    figure = axes.figure
    axes.remove()
    return figure.subplots(1, 2)


PLOTS: dict[str, Callable[[Any, Tree], bool]] = {
    "recall": recall,
    "next_token": next_token,
    "recommendation_counts": recommendation_counts,
    "pass_at_k": pass_at_k,
}
