from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import featurise
from benchmarks.growth import Curve, Scale, claims, history, measure, plot
from benchmarks.rollout import Scale as Search
from common.settings import PolicySettings, load_settings
from deploy.local.plots import save_plots

SMALL = ["policy.d_model=16", "policy.ffn=16", "policy.feature_width=8"]
SCALE = Scale(
    search=Search(
        policy=PolicySettings(d_model=16, heads=2, ffn=16, levels=3, codes=16, short_length=4, positive_length=4),
        items=60,
        topics=4,
        width=8,
    ),
    catalogue=(50, 100),
    beam=(4, 8),
    users=(1, 2),
    features=featurise.Scale(policy=load_settings("v1-0.015b", SMALL).policy, items=500, topics=8, contexts=1),
    history=(10, 100),
    actors=(1, 2),
    actor_searches=2,
    runs=2,
)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_every_curve_has_its_points_and_is_drawn(tmp_path: Path) -> None:
    result = measure(SCALE, lambda _: None)
    assert result.machine.endswith("2 threads")  # those of the searches, though features are made by one
    curves = {name: Curve.model_validate(one) for name, one in result.details["curves"].items()}
    assert {name: tuple(curve.sizes) for name, curve in curves.items()} == {
        name: getattr(SCALE, name) for name in ("catalogue", "beam", "users", "actors", "history")
    }
    assert all(len(runs) == SCALE.runs and min(runs) > 0 for curve in curves.values() for runs in curve.seconds)
    assert result.value == curves["beam"].medians[1]
    [file] = save_plots(tmp_path, {"growth": plot}, result)
    assert file.stat().st_size > 10_000


def curve(size: str, sizes: list[int], seconds: list[float]) -> Curve:
    return Curve(size=size, what="", sizes=sizes, seconds=[[s, s, 9 * s] for s in seconds])


@pytest.mark.parametrize(("slower", "holds"), [(1.0, True), (1.2, False)])
def test_claims_compare_the_last_point_with_the_first(slower: float, holds: bool) -> None:
    found = claims(
        {
            "catalogue": curve("catalogue", [10, 10_000], [1.0, 2.0 * slower]),
            "beam": curve("beam", [32, 2048], [1.0, 64.0 * slower]),
            "users": curve("users", [1, 32], [1.0, 32.0 * slower]),
            "history": curve("history", [10, 1000], [1.0, 100.0 * slower]),
            "actors": curve("actors", [1, 2, 4], [1.5, 1.0 * slower, 1.0]),
        }
    )
    assert [claim.holds for claim in found] == [holds] * 5


def test_a_longer_history_takes_longer() -> None:
    found = history(SCALE.model_copy(update={"history": (10, 3000)}), lambda _: None)
    assert found.growth > 1
