"""The report as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from deploy.local.shown import number, share

Tree = dict[str, Any]


def report_table(report: Tree) -> Table:
    """The main figures, one row each; a value that could not be had is shown as a dash."""
    table = Table(title=f"Run {report['run']} · {report['data'].get('source', '')}", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in _rows(report):
        table.add_row(name, value)
    return table


def _rows(report: Tree) -> Iterator[tuple[str, str]]:
    sessions, samples, groups, loss = report["sessions"], report["samples"], report["groups"], report["loss"]
    yield "duration", f"{number(report['duration_s'], '.0f')} s"
    kept = f"{number(sessions['kept'])} kept ({share(sessions['kept_share'])})"
    yield "sessions", f"{number(sessions['consumed'])} consumed, {kept}"
    yield "samples", f"{number(samples['trained'])} next-token targets in {number(samples['steps'])} steps"
    dropped = ", ".join(f"{count} {reason}" for reason, count in groups["dropped"].items()) or "0"
    asked = f"{number(groups['requested'])} requested, {groups['received']:,} received"
    yield "groups", f"{asked}, {groups['trained']:,} trained, dropped: {dropped}"
    yield "trained per version", _map(groups["trained_per_version"])
    yield "versions published", ", ".join(map(str, report["parameters"]["published"] or [])) or "—"
    for actor, versions in report["parameters"]["used"].items():
        yield f"  used by {actor}", ", ".join(map(str, versions))
    index = report["index"]
    in_force = ", ".join(map(str, index["in_force"] or [])) or "—"
    yield "item index", f"{number(index['new_items'])} new items, versions in force: {in_force}{_drift(index['drift'])}"
    staleness = report["staleness"]
    yield "staleness (versions)", f"max {number(staleness['max'])}; groups: {_map(staleness['histogram'])}"
    yield "parity", f"mean |ratio - 1| {number(report['parity']['mean_abs_ratio_error'], '.1e')}"
    yield "legality", f"{share(report['legality']['first'])} → {share(report['legality']['last'])}"
    yield "mean P-Score", f"{number(report['reward']['first'], '.4f')} → {number(report['reward']['last'], '.4f')}"
    yield "next-day loss", f"{number(loss['next_day_before'], '.4f')} → {number(loss['next_day_after'], '.4f')}"
    yield from _retrieval(report["retrieval"])
    throughput = report["throughput"]
    yield (
        "throughput",
        f"{number(throughput['sessions_per_s'], '.0f')} sessions/s, {number(throughput['groups_per_s'], '.2f')} groups/s",
    )
    hops = ((hop.replace("_", " "), spread["p50"], spread["p95"]) for hop, spread in report["latency_ms"].items())
    yield (
        "latency, median / 95 %",
        "\n".join(f"{hop}: {number(p50, '.1f')} / {number(p95, '.1f')} ms" for hop, p50, p95 in hops),
    )
    yield "dead letters", number(report["dead_letters"]["count"])
    yield "restarts", _map(report["restarts"])


def _drift(drift: Tree | None) -> str:
    if not drift or not drift["items"] or not drift["reference"]:
        return ""
    return f"\nnew items' residual norm: {number(drift['residual_norm'] / drift['reference'], '.2f')} of the catalogue's"


def _retrieval(figures: Tree) -> Iterator[tuple[str, str]]:
    for name, prefix in (
        ("policy after", ""),
        ("policy before", "before_"),
        ("popularity", "popularity_"),
        ("ItemKNN", "itemknn_"),
    ):
        values = (number(figures[f"{prefix}{key}"], ".4f") for key in ("recall_at_10", "recall_at_50", "ndcg_at_10"))
        recall_10, recall_50, ndcg = values
        yield f"{name} R@10 R@50 N@10", f"{recall_10}  {recall_50}  {ndcg}"
    p = {name: number(figures[f"p_value_over_{name}"], ".4f") for name in ("popularity", "itemknn", "before")}
    yield "p, R@10 no better than", ", ".join(f"{name} {value}" for name, value in p.items())


def _map(values: Tree) -> str:
    return ", ".join(f"{key}: {value}" for key, value in values.items()) or "—"
