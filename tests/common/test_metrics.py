from __future__ import annotations

import re
import urllib.request

import pytest
from prometheus_client import Counter, Gauge, Histogram

from common import metrics

NAME = re.compile(
    r"onerec_(trainer|rollout|recommend|reward|tokenizer)(_[a-z]+)+_(total|seconds|nats|number|versions|records|norm|ratio|flops)"
)
Metric = Counter | Gauge | Histogram


def catalogue() -> dict[str, Metric]:
    return {name: value for name, value in vars(metrics).items() if isinstance(value, Counter | Gauge | Histogram)}


def exposed(metric: Metric) -> str:
    return str(next(iter(metric.describe())).name) + ("_total" if isinstance(metric, Counter) else "")


def test_every_name_follows_the_pattern_and_its_constant() -> None:
    assert len(catalogue()) > 25
    for constant, metric in catalogue().items():
        assert NAME.fullmatch(exposed(metric)), exposed(metric)
        assert exposed(metric).split("_")[1].upper() == constant.split("_")[0]
        assert next(iter(metric.describe())).documentation.endswith(".")


def test_names_are_unique() -> None:
    names = [exposed(metric) for metric in catalogue().values()]
    assert len(names) == len(set(names))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Counter("onerec_trainer_groups_total", "again", registry=metrics.REGISTRY)


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
