from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from common.context import Context, UserEvents
from common.messages import Label
from deploy.data.simulator_world import Interests, World, label_offset, new_world
from deploy.experiments.own_traffic import answer

DRAWS = 4_000


@pytest.fixture(scope="module")
def world() -> World:
    made = new_world(items=200, users=10, requests_per_user=5, first_birth=-1, last_birth=0, seed=3)
    return made.with_truth(Interests(made, 3).theta[None], np.full(10, 8, np.float32))


def context_after(items: list[int]) -> Context:
    events = np.tile(np.array(items, np.int64), (5, 1))
    return Context(4, 1_000, events=UserEvents(*events))


def test_users_answer_as_their_interests_say(world: World) -> None:
    item = int(world.affinity(4, np.arange(200), 0).argmax())
    shown = answer(world, context_after([]), np.full(DRAWS, item), 0, np.random.default_rng(0))
    expected = world.expected_labels(4, item, 0)
    seconds = shown.play_ms / 1000
    assert (seconds > 8).mean() == pytest.approx(float(expected["play"]), abs=0.03)
    for name, label in (("like", Label.LIKE), ("comment", Label.COMMENT)):
        assert ((shown.labels & int(label)) > 0).mean() == pytest.approx(float(expected[name]), abs=0.03)
    assert (shown.item_id == item).all()
    assert (shown.time_ms == 1_000).all()
    assert shown.duration_ms[0] == round(1000 * float(world.duration_s[item]))


def test_users_tire_of_the_topics_of_their_last_ten_items(world: World) -> None:
    item = int(world.affinity(4, np.arange(200), 0).argmax())
    other = int(np.flatnonzero(world.topic[:, 0] != world.topic[item, 0])[0])

    def likes(items: list[int]) -> float:
        shown = answer(world, context_after(items), np.full(DRAWS, item), 0, np.random.default_rng(0))
        return float(((shown.labels & int(Label.LIKE)) > 0).mean())

    rested = float(world.affinity(4, item, 0)) + label_offset("like", world.viral[item].astype(np.float32))
    assert likes([item] * 5 + [other] * 10) == likes([]) == pytest.approx(float(expit(rested)), abs=0.03)
    assert likes([other] * 10 + [item] * 5) == pytest.approx(float(expit(rested - 5 * 0.3)), abs=0.03)


def test_answers_are_seeded(world: World) -> None:
    one, again, other = (
        answer(world, context_after([1]), np.arange(200), 0, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert one.play_ms.tolist() == again.play_ms.tolist() != other.play_ms.tolist()
    assert one.labels.tolist() == again.labels.tolist()
