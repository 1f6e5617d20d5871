"""The report as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

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
    yield "duration", f"{_number(report['duration_s'], '.0f')} s"
    kept = f"{_number(sessions['kept'])} kept ({_share(sessions['kept_share'])})"
    yield "sessions", f"{_number(sessions['consumed'])} consumed, {kept}"
    yield "samples", f"{_number(samples['trained'])} next-token targets in {_number(samples['steps'])} steps"
    dropped = ", ".join(f"{count} {reason}" for reason, count in groups["dropped"].items()) or "0"
    asked = f"{_number(groups['requested'])} requested, {groups['received']:,} received"
    yield "groups", f"{asked}, {groups['trained']:,} trained, dropped: {dropped}"
    yield "trained per version", _map(groups["trained_per_version"])
    yield "versions published", ", ".join(map(str, report["parameters"]["published"] or [])) or "—"
    for actor, versions in report["parameters"]["used"].items():
        yield f"  used by {actor}", ", ".join(map(str, versions))
    index = report["index"]
    in_force = ", ".join(map(str, index["in_force"] or [])) or "—"
    yield "item index", f"{_number(index['new_items'])} new items, versions in force: {in_force}{_drift(index['drift'])}"
    staleness = report["staleness"]
    yield "staleness (versions)", f"max {_number(staleness['max'])}; groups: {_map(staleness['histogram'])}"
    yield "parity", f"mean |ratio - 1| {_number(report['parity']['mean_abs_ratio_error'], '.1e')}"
    yield "legality", f"{_share(report['legality']['first'])} → {_share(report['legality']['last'])}"
    yield "mean P-Score", f"{_number(report['reward']['first'], '.4f')} → {_number(report['reward']['last'], '.4f')}"
    yield "next-day loss", f"{_number(loss['next_day_before'], '.4f')} → {_number(loss['next_day_after'], '.4f')}"
    yield from _retrieval(report["retrieval"])
    throughput = report["throughput"]
    yield (
        "throughput",
        f"{_number(throughput['sessions_per_s'], '.0f')} sessions/s, {_number(throughput['groups_per_s'], '.2f')} groups/s",
    )
    hops = ((hop.replace("_", " "), spread["p50"], spread["p95"]) for hop, spread in report["latency_ms"].items())
    yield (
        "latency, median / 95 %",
        "\n".join(f"{hop}: {_number(p50, '.1f')} / {_number(p95, '.1f')} ms" for hop, p50, p95 in hops),
    )
    yield "dead letters", _number(report["dead_letters"]["count"])
    yield "restarts", _map(report["restarts"])


def _drift(drift: Tree | None) -> str:
    if not drift or not drift["items"] or not drift["reference"]:
        return ""
    return f"\nnew items' residual norm: {_number(drift['residual_norm'] / drift['reference'], '.2f')} of the catalogue's"


def _retrieval(figures: Tree) -> Iterator[tuple[str, str]]:
    for name, prefix in (
        ("policy after", ""),
        ("policy before", "before_"),
        ("popularity", "popularity_"),
        ("ItemKNN", "itemknn_"),
    ):
        values = (_number(figures[f"{prefix}{key}"], ".4f") for key in ("recall_at_10", "recall_at_50", "ndcg_at_10"))
        recall_10, recall_50, ndcg = values
        yield f"{name} R@10 R@50 N@10", f"{recall_10}  {recall_50}  {ndcg}"
    p = {name: _number(figures[f"p_value_over_{name}"], ".4f") for name in ("popularity", "itemknn", "before")}
    yield "p, R@10 no better than", ", ".join(f"{name} {value}" for name, value in p.items())


def _number(value: float | None, form: str = ",") -> str:
    return "—" if value is None else format(value, form)


def _share(value: float | None) -> str:
    return "—" if value is None else f"{100 * value:.1f} %"


def _map(values: Tree) -> str:
    return ", ".join(f"{key}: {value}" for key, value in values.items()) or "—"
