from __future__ import annotations

import asyncio

import numpy as np
import pytest

from common.context import Context
from common.settings import RecommendArm
from rollout.recommend.pools import Ranked
from rollout.recommend.selection import Selection
from tests.rollout.reward_stub import Reply, RewardStub, scores_of

ITEMS = [3, 19, 5, 27, 8]
LOG_PROBS = np.arange(10, dtype=np.float32).reshape(5, 2)
EVERYBODY = RecommendArm()
MADE = Ranked(np.array(ITEMS), LOG_PROBS, LOG_PROBS.sum(1), 4, 1, 0.0)


def selected(stub: RewardStub, count: int, budget_s: float = 5.0, arm: RecommendArm = EVERYBODY) -> Ranked:
    selection = Selection(stub.url, budget_s)
    try:
        return asyncio.run(selection.ordered(MADE, Context(1, 86_400_000), count, arm))
    finally:
        selection.close()


def test_the_first_items_come_by_reward_and_the_others_stay() -> None:
    with RewardStub() as stub:
        found = selected(stub, count=4)
        assert found.item_ids.tolist() == [19, 27, 5, 3, 8]
        assert found.log_probs[:, 0].tolist() == [2.0, 6.0, 4.0, 0.0, 8.0]
        assert (found.reward_version, found.parameter_version) == ("stub-1", 4)
        assert [sorted(scores_of(ITEMS[:4]), reverse=True)] == [scores_of(found.item_ids.tolist()[:4])]
        assert stub.requests[0].item_ids == ITEMS[:4]
        assert found.values.tolist() == pytest.approx([*sorted(scores_of(ITEMS[:4]), reverse=True), np.nan], nan_ok=True)


def test_an_arm_may_order_by_terms_of_its_own() -> None:
    with RewardStub() as stub:
        selected(stub, count=4, arm=RecommendArm(terms={"ltr": 3.0}))
        selected(stub, count=4)
        assert [request.terms for request in stub.requests] == [{"ltr": 3.0}, {}]


@pytest.mark.parametrize("reply", [Reply(status=503), Reply(body=b"nonsense"), Reply(delay_s=30.0)])
def test_a_list_that_could_not_be_ordered_is_served_as_it_is(reply: Reply) -> None:
    with RewardStub([reply]) as stub:
        found = selected(stub, count=4, budget_s=0.2)
        stub.release()
    assert found is MADE
