from __future__ import annotations

from benchmarks.featurise import Scale as World
from benchmarks.reward import Scale, compare
from common.settings import Settings


def test_a_small_run_asks_two_replicas_one_and_the_model() -> None:
    world = World(policy=Settings().policy, items=300, topics=5, events=30, contexts=2)
    result = compare(Scale(world=world, items=20, requests=4, runs=1), lambda _: None)
    assert result.rival is not None
    assert result.ratio is not None
    assert abs(result.ratio - result.value / result.rival) < 1e-9
    assert result.details["claims"][0].holds == (result.ratio >= 0.8)
    alone = result.details["one_replica"]
    assert abs(alone["ratio"] - alone["value"] / alone["rival"]) < 1e-9
