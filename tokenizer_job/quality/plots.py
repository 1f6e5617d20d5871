"""The report's plots as SVG text that takes colour and font from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_job.quality.report import TokenizerReport

Codes = npt.NDArray[np.int32]
INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
COLOURS = ["#3f8fd2", "#e07b39", "#35a37a", "#b565a7", "#8c8c8c"]
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "onerec",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}
MOST_POINTS = 400
MOST_BARS = 40


def usage(report: TokenizerReport, sids: Codes) -> str:
    """Items per code, codes sorted by it, one line a level."""

    def draw(axes: Any) -> None:
        ranks = np.unique(np.linspace(1, report.codes, MOST_POINTS).round().astype(np.int64))
        for level, (column, colour) in enumerate(zip(sids.T, _colours(report.levels), strict=True), 1):
            counts = np.sort(np.bincount(column, minlength=report.codes))[::-1][ranks - 1]
            used = counts > 0
            axes.plot(ranks[used], counts[used], color=colour, label=f"level {level}")
        axes.axhline(report.items / report.codes, color=INK, linewidth=0.8, linestyle=":", label="all alike")
        axes.set(xlabel="code, by rank", ylabel="items", yscale="log")
        axes.legend()

    return _svg(draw)


def reconstruction(report: TokenizerReport) -> str:
    """Mean squared error after each level, from the variance of the vectors down."""

    def draw(axes: Any) -> None:
        errors = [report.variance, *report.reconstruction_mse]
        bars = axes.bar(range(len(errors)), errors, 0.6, color=[COLOURS[-1], *_colours(len(errors) - 1)])
        share = [error / max(report.variance, 1e-30) for error in errors]
        axes.bar_label(bars, [f"{100 * value:.0f} %" for value in share], padding=2)
        axes.set_xticks(range(len(errors)), ["none", *(str(level) for level in range(1, len(errors)))])
        axes.set(xlabel="levels decoded", ylabel="MSE per dimension")
        axes.margins(y=0.12)
        axes.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)

    return _svg(draw)


def buckets(report: TokenizerReport) -> str:
    """How many SIDs have one item, two, …"""

    def draw(axes: Any) -> None:
        sizes = np.array(list(report.bucket_sizes), np.int64)
        width = -(-report.largest_bucket // MOST_BARS)
        counts = np.bincount((sizes - 1) // width, np.array(list(report.bucket_sizes.values()), np.int64))
        at = np.flatnonzero(counts)
        axes.bar(1 + at * width + (width - 1) / 2, counts[at], 0.8 * width, color=COLOURS[0])
        axes.set(xlabel="items of an SID", ylabel="SIDs", yscale="log")
        axes.set_ylim(bottom=0.7)
        axes.xaxis.get_major_locator().set_params(integer=True)

    return _svg(draw)


def purity(report: TokenizerReport) -> str:
    """Purity by prefix depth beside what the same prefixes reach without meaning; empty without categories."""
    figures = report.prefixes
    if figures is None:
        return ""

    def draw(axes: Any) -> None:
        depths = range(1, len(figures.purity) + 1)
        axes.plot(depths, figures.purity, "o-", color=COLOURS[0], label="these prefixes")
        axes.plot(depths, figures.shuffled, "o--", color=COLOURS[4], label="categories shuffled")
        axes.axhline(figures.largest_category, color=INK, linewidth=0.8, linestyle=":", label="largest category")
        axes.set(xlabel="prefix depth", ylabel="share of items", ylim=(0, 1.03))
        axes.set_xticks(depths)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.08))

    return _svg(draw)


def _colours(count: int) -> list[str]:
    return [COLOURS[k % (len(COLOURS) - 1)] for k in range(count)]


def _svg(draw: Callable[[Any], None]) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        draw(figure.add_subplot())
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r' id="[a-z0-9]+_\d+"', "", svg)  # names of groups, the same in every plot of a page
