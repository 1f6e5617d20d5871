"""What a PromQL expression reads, and whether our workers serve that."""

from __future__ import annotations

from typing import Any

import promql_parser

import common.metrics  # noqa: F401 - declares the catalogue
from common.metric_catalogue import CATALOGUE

SCRAPE_LABELS = {"job", "instance"}
"""What Prometheus adds to every series."""
FOREIGN = ("up", "process_resident_memory_bytes", "process_cpu_seconds_total")
"""Series of every scraped process that are not of the catalogue."""
EXPOSED: dict[str, dict[str, set[str]]] = {
    "counter": {"": set()},
    "gauge": {"": set()},
    "summary": {"_sum": set(), "_count": set()},
    "histogram": {"_bucket": {"le"}, "_sum": set(), "_count": set()},
}
"""By kind of metric, how its series' names go on, and the labels that are added."""


def series() -> dict[str, set[str]]:
    """Every series that a worker serves, and its labels."""
    served = dict.fromkeys(FOREIGN, SCRAPE_LABELS)
    for entry in CATALOGUE.values():
        served |= {entry.name + end: {*entry.labels, *more, *SCRAPE_LABELS} for end, more in EXPOSED[entry.kind].items()}
    return served


def faults(expression: str) -> list[str]:
    """What is wrong with an expression: it does not parse, or reads series or labels that no worker serves."""
    try:
        tree = promql_parser.parse(expression)
    except ValueError as error:
        return [f"{expression}: {error}"]
    served, found, labels = series(), [], set()
    for selector in _selectors(tree):
        name = str(selector.name)
        if name not in served:
            found.append(f"{expression}: nobody serves {name}")
            continue
        labels |= served[name]
        found += [f"{expression}: {name} has no {m.name}" for m in selector.matchers.matchers if m.name not in served[name]]
    grouped = [name for node in _nodes(tree, promql_parser.AggregateExpr) if node.modifier for name in node.modifier.labels]
    return found + [f"{expression}: nothing has label {name}" for name in grouped if name not in labels]


def names_read(expression: str) -> set[str]:
    """Names of the series that an expression reads."""
    return {str(selector.name) for selector in _selectors(promql_parser.parse(expression))}


def _selectors(tree: promql_parser.Expr) -> list[promql_parser.VectorSelector]:
    ranges = [node.vector_selector for node in _nodes(tree, promql_parser.MatrixSelector)]
    return ranges + _nodes(tree, promql_parser.VectorSelector)


def _nodes(tree: promql_parser.Expr, kind: type[Any]) -> list[Any]:
    found: list[Any] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, kind):
            found.append(node)

    promql_parser.walk(tree, visit)
    return found
