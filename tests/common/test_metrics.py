from __future__ import annotations

import ast
import re
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram, Summary

from common import metrics
from common.metric_catalogue import CATALOGUE, REGISTRY, Entry, counter, gauge
from common.metrics_page import page

ROOT = Path(__file__).parents[2]
ROOMS = ("common", "trainer", "rollout", "reward_service", "tokenizer_job")
DECLARATIONS = {ROOT / "common" / "metrics.py", ROOT / "common" / "metric_catalogue.py"}
NAME = re.compile(
    r"onerec_(trainer|rollout|recommend|reward|tokenizer)(_[a-z]+)+"
    r"_(total|seconds|nats|number|versions|records|norm|ratio|flops|bytes)"
)


def constants() -> dict[str, Entry]:
    """Every entry by the constant that holds its metric."""
    held = {
        constant: metric
        for constant, metric in vars(metrics).items()
        if isinstance(metric, Counter | Gauge | Histogram | Summary)
    }
    return {constant: CATALOGUE[exposed(metric)] for constant, metric in held.items()}


def exposed(metric: Counter | Gauge | Histogram | Summary) -> str:
    return str(next(iter(metric.describe())).name) + ("_total" if isinstance(metric, Counter) else "")


def read_names(path: Path) -> set[str]:
    """Names that a file's code reads, imports left out."""
    tree = ast.parse(path.read_text())
    plain = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return plain | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_every_name_follows_the_pattern_and_its_constant() -> None:
    assert len(constants()) == len(CATALOGUE) > 80
    for constant, entry in constants().items():
        assert NAME.fullmatch(entry.name), entry.name
        assert entry.worker.upper() == constant.split("_")[0]
        assert entry.help.endswith("."), entry.name


def test_every_metric_is_set_somewhere() -> None:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path not in DECLARATIONS]
    used = set().union(*map(read_names, files))
    assert sorted(set(constants()) - used) == []


def test_the_page_is_made_from_the_catalogue() -> None:
    remake = "python -m common.metrics_page > docs/metrics.md"
    assert (ROOT / "docs" / "metrics.md").read_text() == page(), f"run: {remake}"
    assert all(f"| `{name}` |" in page() for name in CATALOGUE)


def test_a_name_says_its_unit() -> None:
    assert CATALOGUE["onerec_trainer_step_seconds"].unit == "seconds"
    assert CATALOGUE["onerec_trainer_waited_seconds_total"].unit == "seconds"
    assert CATALOGUE["onerec_trainer_groups_total"].unit == "count"
    for wrong in ("onerec_trainer_age_days", "trainer_age_seconds", "onerec_trainer_steps_total"):
        with pytest.raises(AssertionError, match=wrong):
            gauge(wrong, "Nothing.")
    with pytest.raises(AssertionError, match="onerec_trainer_steps"):
        counter("onerec_trainer_steps", "Nothing.")


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Counter("onerec_trainer_groups_total", "again", registry=REGISTRY)


def test_serve_shows_what_was_counted_on_a_port_of_its_own() -> None:
    before = metrics.TRAINER_GROUPS.labels("stale")._value.get()
    metrics.TRAINER_GROUPS.labels("stale").inc(2)
    port = metrics.serve()
    assert port > 0
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert f'onerec_trainer_groups_total{{reason="stale"}} {before + 2}' in text
    assert "process_resident_memory_bytes" in text
    assert metrics.render().decode().count("# HELP onerec_") == text.count("# HELP onerec_")
