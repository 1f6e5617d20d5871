"""The report's pictures, as PNG files. Each is left out where its figures could not be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deploy.local.run_folder import RunFolder
from deploy.local.statistics import Line, RunStatistics

Plot = Callable[[Any, dict[str, Any], RunStatistics], bool]
SMOOTH_SHARE = 0.02


def draw_plots(run: RunFolder, report: dict[str, Any]) -> list[Path]:
    """Draw what can be drawn into the run's report folder; the files."""
    statistics = RunStatistics(run)
    statistics.refresh()
    return save_plots(run.report, PLOTS, report, statistics)


def save_plots(folder: Path, plots: Mapping[str, Callable[..., bool]], *figures: object) -> list[Path]:
    """Call each plot with axes and the figures; ``folder/NAME.png`` is what it drew, and not there if it returns False."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, plot in plots.items():
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        file = folder / f"{name}.png"
        if plot(axes, *figures):
            figure.savefig(file, dpi=120)
            files.append(file)
        else:
            file.unlink(missing_ok=True)
        plt.close(figure)
    return files


def loss_per_level(axes: Any, _: dict[str, Any], statistics: RunStatistics) -> bool:
    """Next-token loss of each level over the steps, smoothed."""
    trained = [step for step in statistics.steps if step["loss_per_level"]]
    if len(trained) < 2:
        return False
    steps = [step["step"] for step in trained]
    for level, losses in enumerate(np.array([step["loss_per_level"] for step in trained]).T, 1):
        axes.plot(steps, _smooth(losses), label=f"level {level}")
    axes.set(title="Next-token loss while streaming", xlabel="step", ylabel="nats")
    axes.legend()
    return True


def legality(axes: Any, report: dict[str, Any], statistics: RunStatistics) -> bool:
    """Share of legal candidates over the groups, and per version."""
    return _course(axes, report["legality"], statistics.groups, "legal_share", "Legality of generated items")


def reward(axes: Any, report: dict[str, Any], statistics: RunStatistics) -> bool:
    """Mean P-Score over the groups, and per version."""
    return _course(axes, report["reward"], statistics.groups, "mean_reward", "Mean P-Score of generated items")


def staleness(axes: Any, report: dict[str, Any], _: RunStatistics) -> bool:
    """How many versions behind the newest the trained groups were."""
    histogram = report["staleness"]["histogram"]
    axes.bar(histogram.keys(), histogram.values())
    axes.set(title="Staleness of trained groups", xlabel="versions behind the newest", ylabel="groups")
    return bool(histogram)


def parity(axes: Any, _: dict[str, Any], statistics: RunStatistics) -> bool:
    """Error of every group's behaviour probabilities against the trainer's own computation."""
    errors = [line["parity_error"] for line in statistics.groups if line.get("parity_error") is not None]
    axes.semilogy(np.maximum(errors, 1e-12), ".", markersize=3)
    axes.axhline(1e-3, color="red", linewidth=1, label="largest accepted")
    axes.set(title="Parity of fleet and trainer", xlabel="group", ylabel="mean |ratio - 1|")
    axes.legend()
    return bool(errors)


def latency(axes: Any, report: dict[str, Any], _: RunStatistics) -> bool:
    """Median and 95th percentile of every hop."""
    hops = {hop: spread for hop, spread in report["latency_ms"].items() if spread["p50"] is not None}
    place = np.arange(len(hops))
    axes.barh(place - 0.2, [max(s["p50"], 0.01) for s in hops.values()], 0.4, label="median")
    axes.barh(place + 0.2, [max(s["p95"], 0.01) for s in hops.values()], 0.4, label="95 %")
    axes.set_yticks(place, [hop.replace("_", " ") for hop in hops])
    axes.set(title="Latency of every hop", xlabel="ms", xscale="log")
    axes.legend()
    return bool(hops)


def throughput(axes: Any, _: dict[str, Any], statistics: RunStatistics) -> bool:
    """Sessions consumed per second over the time of streaming."""
    steps = statistics.steps
    if len(steps) < 3:
        return False
    seconds = (np.array([step["time_ms"] for step in steps]) - steps[0]["time_ms"]) / 1000
    consumed = np.array([step["counters"].get("sessions.consumed", 0) for step in steps])
    edges = np.linspace(0, max(seconds[-1], 1e-3), min(40, len(steps)))
    rate = np.diff(np.interp(edges, seconds, consumed)) / np.diff(edges)
    axes.stairs(rate, edges, fill=True)
    axes.set(title="Throughput of the trainer", xlabel="s of streaming", ylabel="sessions / s")
    return True


def retrieval(axes: Any, report: dict[str, Any], _: RunStatistics) -> bool:
    """Recall@10 of the policy before and after streaming beside the baselines."""
    figures = report["retrieval"]
    keys = {
        "popularity\nof the last day": "popularity_recall_at_10",
        "ItemKNN\non all watches": "itemknn_recall_at_10",
        "policy\nbefore": "before_recall_at_10",
        "policy\nafter": "recall_at_10",
    }
    known = {name: figures[key] for name, key in keys.items() if figures[key] is not None}
    bars = axes.bar(known.keys(), known.values())
    axes.bar_label(bars, fmt="%.4f")
    axes.margins(y=0.1)
    axes.set(title=f"Recall@10 on the test days, {figures['users'] or 0:,} users")
    return bool(known)


def calibration(axes: Any, report: dict[str, Any], _: RunStatistics) -> bool:
    """What the towers predict and what then happens, by tenths of the predictions; on the diagonal they are right."""
    found = {x: bins for x, bins in (report["reward"]["model_reliability"] or {}).items() if bins}
    for objective, bins in found.items():
        kept = [(predicted, actual) for predicted, actual, _ in bins if actual > 0]  # the axes are logarithmic
        axes.plot([p for p, _ in kept], [a for _, a in kept], "o-", markersize=3, label=objective)
    axes.set(title="Calibration of the preference model", xlabel="predicted rate", ylabel="actual rate")
    axes.set(xscale="log", yscale="log")
    axes.axline((0.001, 0.001), (1, 1), color="black", linewidth=1)
    axes.legend(*axes.get_legend_handles_labels())
    return bool(found)


PLOTS: dict[str, Plot] = {
    "loss": loss_per_level,
    "legality": legality,
    "reward": reward,
    "calibration": calibration,
    "staleness": staleness,
    "parity": parity,
    "latency": latency,
    "throughput": throughput,
    "retrieval": retrieval,
}


def _course(axes: Any, figures: dict[str, Any], groups: list[Line], name: str, title: str) -> bool:
    """A figure of every group, and its mean per parameter version at the version's own place on the axis."""
    lines = [line for line in groups if line.get(name) is not None]
    axes.plot([line["step"] for line in lines], [line[name] for line in lines], ".", markersize=3, alpha=0.5, label="groups")
    versions = figures["per_version"]
    axes.plot([int(v) for v in versions], list(versions.values()), "o-", color="black", label="mean per version")
    axes.set(title=title, xlabel="step (group trained, version published)")
    axes.legend()
    return bool(lines)


def _smooth(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Exponential moving average over a share of the values."""
    keep = 1 - 1 / max(1.0, SMOOTH_SHARE * len(values))
    out = values.astype(float).copy()
    for k in range(1, len(out)):
        out[k] = keep * out[k - 1] + (1 - keep) * out[k]
    return out
