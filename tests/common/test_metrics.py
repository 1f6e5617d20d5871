from __future__ import annotations

import re

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
