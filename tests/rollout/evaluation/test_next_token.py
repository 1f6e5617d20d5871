from __future__ import annotations

import numpy as np
import torch

from common.policy import build_policy
from rollout.engine import GenerationEngine
from rollout.evaluation import EvaluationSet, EvaluationUser, next_token_figures
from tests.factories import TINY, make_context, make_index

NONE = np.empty(0, np.int64)


def user(seed: int, targets: list[int]) -> EvaluationUser:
    return EvaluationUser(make_context(4, seed, user_id=seed), NONE, NONE, np.array(targets, np.int64))


def test_loss_and_accuracy_are_means_over_all_targets_whatever_the_batch() -> None:
    policy, index = build_policy(TINY, seed=1), make_index()
    engine = GenerationEngine(policy, index, 4)
    data = EvaluationSet([user(1, [3, 5]), user(2, []), user(3, [7])], [], NONE)
    figures = next_token_figures(engine, data, batch=1)
    assert figures is not None
    loss, hits = np.zeros(3), np.zeros(3)
    with torch.no_grad():
        for one in data.users:
            for row in one.next_tokens:
                codes = torch.tensor(index.sids[row]).long()
                logits = policy.logits(policy.encode(engine.featurizer([one.context])), codes[None, None])[0, 0]
                loss -= logits.log_softmax(-1)[torch.arange(3), codes].numpy()
                hits += (logits.argmax(-1) == codes).numpy()
    np.testing.assert_allclose(figures.loss, loss / 3, rtol=1e-6)
    np.testing.assert_array_equal(figures.accuracy, hits / 3)
    assert figures.targets == 3
    together = next_token_figures(engine, data)
    assert together is not None
    np.testing.assert_allclose(together.loss, figures.loss, rtol=1e-6)


def test_no_targets_give_no_figures() -> None:
    engine = GenerationEngine(build_policy(TINY), make_index(), 4)
    assert next_token_figures(engine, EvaluationSet([user(1, [])], [], NONE)) is None
